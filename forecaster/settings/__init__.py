"""What operators set: the environment becomes `Settings`, and nothing else reads the environment.

`tests/unit/test_layout.py` lists the packages and modules that it may import.
"""

from forecaster.settings.environment import PREFIX, Settings, load_settings, variables

__all__ = ["PREFIX", "Settings", "load_settings", "variables"]
