"""Composition root: settings become plain values, connections, the worker, the trainer and the HTTP server.

May import every package but `cli` and `demo`.
"""
