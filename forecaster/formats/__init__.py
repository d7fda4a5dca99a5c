"""Bytes to values and back, for every topic and file; no I/O but that of files.

May import `core`, `errors` and `records`; never torch.
"""
