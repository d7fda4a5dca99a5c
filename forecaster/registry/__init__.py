"""The models topic: which checkpoints exist, which of them is to be served, and their copies on disk.

May import `formats` and `core`.
"""
