"""Bytes to values and back, for every topic and file; no I/O but that of files.

May import `core`, `errors`, `history` and `records`. Weights pass as numpy arrays: torch is imported by
`core.network` alone.
"""
