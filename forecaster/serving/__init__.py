"""The worker: its loop, its messages and its guards; the rows are in `state`, the view of the worker in `inspect`.

May import `pipeline`, `formats`, `core`, and of `broker` the retry and the names of groups.
"""
