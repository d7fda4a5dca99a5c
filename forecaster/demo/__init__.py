"""The parts of `forecaster demo`: real weather, a daemon of its own, and the stream between them; `cli` prints.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
