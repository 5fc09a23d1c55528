"""Factories of rows in the form that callers pass them, one for each model that can be written."""

from tests.factories.booking import BookingRow, NewBookingRow
from tests.factories.client import ClientRow, NewClientRow
from tests.factories.company import CompanyRow
from tests.factories.dialog import DialogRow
from tests.factories.service import ServiceCategoryRow, ServiceRow
from tests.factories.staff import StaffRow, StaffScheduleRow
from tests.factories.whatsapp import WhatsAppAuthRow, WhatsAppKeyRow

__all__ = [
    "BookingRow",
    "ClientRow",
    "CompanyRow",
    "DialogRow",
    "NewBookingRow",
    "NewClientRow",
    "ServiceCategoryRow",
    "ServiceRow",
    "StaffRow",
    "StaffScheduleRow",
    "WhatsAppAuthRow",
    "WhatsAppKeyRow",
]
