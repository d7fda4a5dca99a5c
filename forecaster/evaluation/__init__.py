"""Backtests: the serving pipeline over files, scored forecast by forecast, and their report."""
