"""Forecasts of the simple experts and the network, combined and gated, with calibrated intervals.

May import `core.arrays`.
"""
