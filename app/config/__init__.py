"""The configuration: the environment, validated as a whole."""

from app.config.settings import PROJECT_ROOT, Settings, subprocess_environment

__all__ = ["PROJECT_ROOT", "Settings", "subprocess_environment"]
