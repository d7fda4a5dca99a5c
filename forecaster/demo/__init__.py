"""The parts of `forecaster demo`: real weather, a daemon of its own, and the stream between them; `cli` prints.

May import `broker`, `core`, `formats`, `learning` and `settings`.
"""
