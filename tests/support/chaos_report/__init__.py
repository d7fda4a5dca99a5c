"""The chaos report: workers are disturbed in every way, and their output is compared with an uninterrupted reference.

readings: input that names its seed; workers: daemons that start fast; trial: one topic, its workers and its check;
disturbances: what is done to them; payloads: bad records by the million; checker: the comparison; table: the report.
"""
