"""Frontdesk: the data service behind a WhatsApp booking assistant for salons."""

from typing import TYPE_CHECKING

from app.config import Settings
from app.frontdesk import Frontdesk

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["Frontdesk", "Settings", "create_app"]


def create_app(desk: Frontdesk | None = None) -> "Flask":
    """The WSGI application; without a desk the environment configures one."""
    from app.web import create_app  # workers of the assistant need no web framework

    return create_app(desk)
