"""The rows of the partitions: blocks, swaps and restores; `StateStore` owns them.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
