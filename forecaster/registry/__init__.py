"""The models topic: the checkpoints on it, the orders which of them is to serve, and their copies on disk."""
