"""Pure mathematics on arrays: no I/O, clock, settings, threads or logging."""
