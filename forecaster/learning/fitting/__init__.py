"""From sequences to checkpoints: truncated BPTT and solved readouts.

May import `learning.data`, `formats` and `core`.
"""
