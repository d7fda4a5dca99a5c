"""The composition root: it turns settings into plain values, connections, a worker, a trainer and an HTTP server.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
