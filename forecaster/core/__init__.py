"""The mathematics of forecasting: functions on arrays, without I/O, clock, settings or logging.

May import `errors` and `records`. Inside, each may import those before it: arrays, checkpoint_ids, hashing, metrics,
scoring; series; network or ensemble; state; rewarm. Only network uses torch.
"""
