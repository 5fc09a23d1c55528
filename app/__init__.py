"""Frontdesk: the data service behind a WhatsApp booking assistant for salons."""

from app.config import Settings
from app.frontdesk import Frontdesk

__all__ = ["Frontdesk", "Settings"]
