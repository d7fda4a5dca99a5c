"""What HTTP and `forecaster explain` may see of a worker, as plain values.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
