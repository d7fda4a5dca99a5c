"""The Kafka client and the embedded broker: the only package that imports `kafka`.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""
