"""From the history topic, or files, to training sequences and batches.

May import `formats` and `core`.
"""
