"""Probabilistic forecasts for Kafka sensor streams from recurrent networks, exactly once."""

__version__ = "0.1.0"
