"""The Kafka client and the embedded broker: the only package that imports `kafka`.

May import: clock, errors, records.
"""
