"""Forecasts of the simple experts and the network, combined, gated and with calibrated intervals.

May import `core.arrays`.
"""
