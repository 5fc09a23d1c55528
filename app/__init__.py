"""Frontdesk: the data service behind a WhatsApp booking assistant for salons.

The names below are imported at their first use, so that a command or a worker loads only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.config import Settings
    from app.frontdesk import Frontdesk
    from app.web import create_app

__all__ = ["Frontdesk", "Settings", "create_app"]

_MODULES = {"Frontdesk": "app.frontdesk", "Settings": "app.config", "create_app": "app.web"}


def __getattr__(name: str) -> Any:
    """Import one of the public names (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
