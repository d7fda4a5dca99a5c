"""The mathematics of forecasting: pure functions on arrays, without I/O, clock, settings or logging.

May import `errors` and `records`. Inside, each may import those before it: arrays, metrics, scoring; series; network or
ensemble; state; rewarm.
"""
