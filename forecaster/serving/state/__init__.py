"""The rows of the partitions: blocks, snapshots, swaps and restore.

May import `pipeline`, `formats` and `core`.
"""
