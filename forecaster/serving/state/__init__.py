"""The rows of the partitions: blocks, snapshots, swaps and restores; `StateStore` owns them.

May import `pipeline`, `formats`, `core` and the modules below them, but nothing else of `serving`.
"""
