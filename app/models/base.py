"""Common parts of the models: constraint names, column types, tenant columns."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

# `column_0_N_name` joins the names of all columns. With `column_0_name`, two constraints that begin with
# the same column would get the same name.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

BigInt = Annotated[int, mapped_column(BigInteger)]
Int = Annotated[int, mapped_column(Integer)]
Money = Annotated[Decimal, mapped_column(Numeric(12, 2))]
Percent = Annotated[Decimal, mapped_column(Numeric(5, 2))]
Json = Annotated[Any, mapped_column(JSONB)]
TimestampTz = Annotated[datetime, mapped_column(DateTime(timezone=True))]


class Base(DeclarativeBase):
    """Base class of all models. `repr` shows the primary key only, never personal data."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {str: Text}

    def __repr__(self) -> str:
        keys = ", ".join(f"{c.key}={self.__dict__.get(c.key)!r}" for c in type(self).__table__.primary_key)
        return f"{type(self).__name__}({keys})"


class IdTimestampsMixin:
    """Frontdesk's own `id` (next to the YClients ids), and the times of creation and of the last write."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), sort_order=-10)
    created_at: Mapped[TimestampTz] = mapped_column(server_default=func.now(), sort_order=90)
    updated_at: Mapped[TimestampTz] = mapped_column(server_default=func.now(), sort_order=91)


class TenantMixin(IdTimestampsMixin):
    """A row of one company. The primary key is `(company_id, id)`; every UNIQUE contains `company_id`."""

    company_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("companies.company_id", deferrable=True), sort_order=-11
    )

    # Foreign keys are deferrable for the relay of a transfer, and have no ON DELETE CASCADE: a cascade
    # would delete children that the relay is about to keep. Repositories delete children explicitly.
    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            PrimaryKeyConstraint("company_id", "id", name=f"pk_{cls.__tablename__}"),  # type: ignore[attr-defined]
            *cls.constraints(),
        )

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        """Return the constraints and indexes of this table."""
        return ()


class MirroredMixin:
    """A row that mirrors a YClients record, with the times of its last change and of its deletion there."""

    source_changed_at: Mapped[TimestampTz | None] = mapped_column(sort_order=92)
    deleted_at: Mapped[TimestampTz | None] = mapped_column(sort_order=93)
