"""The worker: its loop, the pipeline of a reading, the rows of a partition."""
