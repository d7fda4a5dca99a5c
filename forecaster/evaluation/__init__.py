"""Backtests: the serving pipeline over files, scored forecast by forecast, and their report.

May import `learning`, `pipeline`, `formats` and `core`.
"""
