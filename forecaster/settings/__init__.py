"""What operators set: the environment becomes `Settings`, and nothing else reads it."""

from forecaster.settings.settings import Settings, load_settings, variables

__all__ = ["Settings", "load_settings", "variables"]
