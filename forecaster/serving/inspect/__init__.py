"""What HTTP and `forecaster explain` may see of a worker, as plain values.

May import all of `serving` but the worker.
"""
