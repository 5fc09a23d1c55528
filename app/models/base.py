"""What every table shares: naming, column types and the tenant columns."""

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

# `column_0_N_name` joins all the columns: with `column_0_name` two constraints
# that begin with the same column would get one name.
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
    """Base of all models. A record's `repr` shows its keys and never a person's data."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {str: Text}

    def __repr__(self) -> str:
        keys = ", ".join(f"{c.key}={self.__dict__.get(c.key)!r}" for c in type(self).__table__.primary_key)
        return f"{type(self).__name__}({keys})"


class IdTimestampsMixin:
    """`id` beside the YClients ids, and when the row was made and last written."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), sort_order=-10)
    created_at: Mapped[TimestampTz] = mapped_column(server_default=func.now(), sort_order=90)
    updated_at: Mapped[TimestampTz] = mapped_column(server_default=func.now(), sort_order=91)


class TenantMixin(IdTimestampsMixin):
    """A row of one company: `(company_id, id)` is its primary key, and every UNIQUE has `company_id`."""

    company_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("companies.company_id", deferrable=True), sort_order=-11
    )

    # A deferred constraint would do for a relay, a cascade would not: it deletes
    # children that the relay is about to keep. Repositories delete children themselves.
    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            PrimaryKeyConstraint("company_id", "id", name=f"pk_{cls.__tablename__}"),  # type: ignore[attr-defined]
            *cls.constraints(),
        )

    @classmethod
    def constraints(cls) -> tuple[Any, ...]:
        """The table's own constraints and indexes."""
        return ()


class MirroredMixin:
    """A row that mirrors one of YClients: when it changed there, and when it was deleted there."""

    source_changed_at: Mapped[TimestampTz | None] = mapped_column(sort_order=92)
    deleted_at: Mapped[TimestampTz | None] = mapped_column(sort_order=93)
