"""The serving pipeline over files: prequential scores and reports.

May import `learning`, `pipeline`, `formats` and `core`.
"""
