"""From training sequences to checkpoints: truncated BPTT, solved readouts, challengers.

May import `learning.data`, `learning.promotion`, `formats` and `core`.
"""
