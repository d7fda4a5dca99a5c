"""What operators set: the environment becomes `Settings`, and nothing else reads the environment.

May import: errors.
"""

from forecaster.settings.environment import PREFIX, Settings, load_settings, variables

__all__ = ["PREFIX", "Settings", "load_settings", "variables"]
