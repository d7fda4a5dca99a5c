"""Training data: from the history topic, or files, to training sequences and batches."""
