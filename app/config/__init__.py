"""The configuration: the environment, validated as a whole."""

from app.config.settings import PROJECT_ROOT, Settings, environment_with

__all__ = ["PROJECT_ROOT", "Settings", "environment_with"]
