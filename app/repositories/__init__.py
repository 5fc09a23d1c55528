"""Repositories: one per aggregate, each bound to one company."""

from sqlalchemy.orm import Session

from app.database.query import QueryReader
from app.repositories.base import Tenant
from app.repositories.bookings import BookingRepository
from app.repositories.clients import ClientRepository
from app.repositories.companies import CompanyRepository
from app.repositories.dialogs import DialogContextRepository
from app.repositories.services import ServiceCategoryRepository, ServiceRepository
from app.repositories.staff import StaffRepository, StaffScheduleRepository
from app.repositories.whatsapp import WhatsAppAuthRepository, WhatsAppKeyRepository


class Repositories:
    """All repositories of one company. Without a session they are read-only."""

    def __init__(self, tenant: Tenant, reader: QueryReader, session: Session | None = None) -> None:
        self.tenant = tenant
        self.companies = CompanyRepository(tenant, reader, session)
        self.clients = ClientRepository(tenant, reader, session)
        self.service_categories = ServiceCategoryRepository(tenant, reader, session)
        self.services = ServiceRepository(tenant, reader, session)
        self.staff = StaffRepository(tenant, reader, session)
        self.staff_schedules = StaffScheduleRepository(tenant, reader, session)
        self.bookings = BookingRepository(tenant, reader, session)
        self.dialog_contexts = DialogContextRepository(tenant, reader, session)
        self.whatsapp_auth = WhatsAppAuthRepository(tenant, reader, session)
        self.whatsapp_keys = WhatsAppKeyRepository(tenant, reader, session)
