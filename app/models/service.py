"""Services, their categories, and the staff that performs them."""

from typing import Any

from sqlalchemy import Index, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, BigInt, Int, MirroredMixin, Money, TenantMixin


class ServiceCategory(TenantMixin, MirroredMixin, Base):
    """A group of services on the salon's price list."""

    __tablename__ = "service_categories"

    yclients_id: Mapped[BigInt]
    title: Mapped[str]
    weight: Mapped[Int | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (UniqueConstraint("yclients_id", "company_id"),)


class Service(TenantMixin, MirroredMixin, Base):
    """A service. `duration` is in seconds. `category_id` is a YClients id whose category may be missing."""

    __tablename__ = "services"

    yclients_id: Mapped[BigInt]
    title: Mapped[str]
    category_id: Mapped[BigInt | None]
    price_min: Mapped[Money | None]
    price_max: Mapped[Money | None]
    duration: Mapped[Int | None]
    comment: Mapped[str | None]
    weight: Mapped[Int | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("yclients_id", "company_id", name="services_yclients_company_unique"),
            Index(None, "company_id", "category_id"),
        )


class ServiceStaff(TenantMixin, Base):
    """A service that a staff member performs. Both ids are YClients ids; `duration` is in seconds."""

    __tablename__ = "service_staff"

    service_id: Mapped[BigInt]
    staff_id: Mapped[BigInt]
    duration: Mapped[Int | None]

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("company_id", "service_id", "staff_id"),
            Index(None, "company_id", "staff_id"),
        )
