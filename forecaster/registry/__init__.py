"""The models topic: the checkpoints on it, which of them is to be served, and their copies on disk.

May import `formats` and `core`.
"""
