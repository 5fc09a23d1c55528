"""Repositories: one per aggregate, each bound to one company."""

from functools import cached_property

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
    """All repositories of one company, created at their first use. Without a session they are read-only."""

    def __init__(self, tenant: Tenant, reader: QueryReader, session: Session | None = None) -> None:
        self.tenant = tenant
        self._reader = reader
        self._session = session

    @cached_property
    def companies(self) -> CompanyRepository:
        return CompanyRepository(self.tenant, self._reader, self._session)

    @cached_property
    def clients(self) -> ClientRepository:
        return ClientRepository(self.tenant, self._reader, self._session)

    @cached_property
    def service_categories(self) -> ServiceCategoryRepository:
        return ServiceCategoryRepository(self.tenant, self._reader, self._session)

    @cached_property
    def services(self) -> ServiceRepository:
        return ServiceRepository(self.tenant, self._reader, self._session)

    @cached_property
    def staff(self) -> StaffRepository:
        return StaffRepository(self.tenant, self._reader, self._session)

    @cached_property
    def staff_schedules(self) -> StaffScheduleRepository:
        return StaffScheduleRepository(self.tenant, self._reader, self._session)

    @cached_property
    def bookings(self) -> BookingRepository:
        return BookingRepository(self.tenant, self._reader, self._session)

    @cached_property
    def dialog_contexts(self) -> DialogContextRepository:
        return DialogContextRepository(self.tenant, self._reader, self._session)

    @cached_property
    def whatsapp_auth(self) -> WhatsAppAuthRepository:
        return WhatsAppAuthRepository(self.tenant, self._reader, self._session)

    @cached_property
    def whatsapp_keys(self) -> WhatsAppKeyRepository:
        return WhatsAppKeyRepository(self.tenant, self._reader, self._session)
