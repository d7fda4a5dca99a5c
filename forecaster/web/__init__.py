"""What an operator sees over HTTP: health, metrics, a read-only API and the live page."""
