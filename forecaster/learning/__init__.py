"""The trainer: its schedule and child process, the training itself, and the decision which checkpoint serves.

It never touches the Kafka client; `tests/unit/test_layout.py` holds what each part may import.
"""
