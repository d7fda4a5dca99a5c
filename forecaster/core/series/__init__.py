"""What a series has been: its grid, filters, scale and inputs, one row a series.

May import `core.arrays`.
"""
