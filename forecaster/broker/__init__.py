"""All that touches the Kafka client, and the embedded broker."""
