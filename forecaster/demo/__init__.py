"""`forecaster demo`: an embedded broker, real weather, the real daemon.

May import `broker`, `core`, `formats`, `learning` and `settings`.
"""
