"""One repository for each aggregate; all of them bound to one company."""

from sqlalchemy.orm import Session

from app.database.query import Reader
from app.repositories.base import Scope
from app.repositories.bookings import BookingRepository
from app.repositories.clients import ClientRepository
from app.repositories.companies import CompanyRepository
from app.repositories.dialogs import DialogContextRepository
from app.repositories.services import ServiceCategoryRepository, ServiceRepository
from app.repositories.staff import StaffRepository, StaffScheduleRepository
from app.repositories.whatsapp import WhatsAppAuthRepository, WhatsAppKeyRepository


class Repositories:
    """All repositories of one company. Without a session they only read."""

    def __init__(self, scope: Scope, reader: Reader, session: Session | None = None) -> None:
        self.scope = scope
        self.companies = CompanyRepository(scope, reader, session)
        self.clients = ClientRepository(scope, reader, session)
        self.service_categories = ServiceCategoryRepository(scope, reader, session)
        self.services = ServiceRepository(scope, reader, session)
        self.staff = StaffRepository(scope, reader, session)
        self.staff_schedules = StaffScheduleRepository(scope, reader, session)
        self.bookings = BookingRepository(scope, reader, session)
        self.dialog_contexts = DialogContextRepository(scope, reader, session)
        self.whatsapp_auth = WhatsAppAuthRepository(scope, reader, session)
        self.whatsapp_keys = WhatsAppKeyRepository(scope, reader, session)
