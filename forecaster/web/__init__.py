"""HTTP for operators: health, metrics, the read-only API and the live page.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
