"""SQLAlchemy models of the schema at the newest migration; one module per group of tables."""

from app.models.archive import ArchivedRow
from app.models.backup import BackupRun
from app.models.base import Base
from app.models.booking import Booking, BookingService, BookingSlot
from app.models.client import Client
from app.models.company import Company
from app.models.dialog import DialogContext
from app.models.service import Service, ServiceCategory, ServiceStaff
from app.models.staff import Staff, StaffSchedule
from app.models.sync import RequestBudget, SyncRun
from app.models.whatsapp import WhatsAppAuth, WhatsAppKey, WhatsAppState

__all__ = [
    "ArchivedRow",
    "BackupRun",
    "Base",
    "Booking",
    "BookingService",
    "BookingSlot",
    "Client",
    "Company",
    "DialogContext",
    "RequestBudget",
    "Service",
    "ServiceCategory",
    "ServiceStaff",
    "Staff",
    "StaffSchedule",
    "SyncRun",
    "WhatsAppAuth",
    "WhatsAppKey",
    "WhatsAppState",
]
