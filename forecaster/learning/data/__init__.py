"""From the history topic or files to training sequences and batches.

May import `broker`, `formats` and `core`.
"""
