"""What a worker shows of itself, as plain values.

May import all of `serving`.
"""
