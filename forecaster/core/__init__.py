"""The mathematics of forecasting: pure functions on arrays, without I/O, clock, settings, threads or logging.

May import `errors` and `records`. Inside: arrays, metrics < series < network, ensemble < state < rewarm; scoring.
"""
