"""The worker: its loop, its messages and its guards; the rows are in `state`, the view of the worker in `inspect`.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
