"""HTTP for operators: health, metrics, the read-only API and the live page.

May import `registry`, `serving`, `learning`, `formats` and the modules below them; never torch.
"""
