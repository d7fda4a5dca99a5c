"""The composition root: it turns settings into plain values, connections, a worker, a trainer and an HTTP server.

May import: every package but cli, demo and evaluation.
"""
