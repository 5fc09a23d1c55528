"""Companies, which are the tenants. Every tenant table references this table."""

from sqlalchemy import BigInteger, true
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, IdTimestampsMixin, MirroredMixin

DEFAULT_TIMEZONE = "Europe/Moscow"
DEFAULT_COUNTRY = "RU"


class Company(IdTimestampsMixin, MirroredMixin, Base):
    """A salon. `company_id` is the YClients id."""

    __tablename__ = "companies"

    company_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, sort_order=-11)
    title: Mapped[str]
    timezone: Mapped[str] = mapped_column(server_default=DEFAULT_TIMEZONE)  # IANA name
    country: Mapped[str] = mapped_column(server_default=DEFAULT_COUNTRY)  # ISO 3166 alpha-2
    phone: Mapped[str | None]
    address: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())
