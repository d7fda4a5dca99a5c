"""The trainer: when it runs, its child process, training itself, and the decision which checkpoint serves.

May import `pipeline`, `registry`, `formats` and `core`; never the Kafka client.
"""
