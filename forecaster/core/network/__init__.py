"""The recurrent network, its features, its solved readouts and their use.

May import `core.series`.
"""
