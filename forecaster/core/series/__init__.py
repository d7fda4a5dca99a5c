"""From readings to the network's inputs: grid, denoising, scale and context of each series, one row a series.

May import `core.arrays`.
"""
