"""Bulk upserts of ORMs: SQLAlchemy, Django and advanced-alchemy.

Each `load` imports its peer and returns a function that writes rows (column name to value) in one
transaction. Django and advanced-alchemy are installed with the extra `bench`; without it `load` raises
ModuleNotFoundError.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg.conninfo
from sqlalchemy import BigInteger, Identity, UniqueConstraint, create_engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.models import Client

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], object]
KEY = ("yclients_id", "company_id")
CHUNK = 500


@dataclass(frozen=True)
class OrmPeer:
    """A peer of P4. `target` is the required ratio of Frontdesk's rate to the peer's."""

    name: str
    load: Callable[[str, int], Write]
    target: float


def sqlalchemy_orm(url: str, company_id: int) -> Write:
    """Upsert with SQLAlchemy: `INSERT … VALUES … ON CONFLICT … RETURNING`, 500 rows per statement."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))

    def write(rows: Sequence[Row]) -> None:
        with Session(engine) as session, session.begin():
            for start in range(0, len(rows), CHUNK):
                values = [{**row, "company_id": company_id} for row in rows[start : start + CHUNK]]
                statement = insert(Client).values(values)
                settable = {name: statement.excluded[name] for name in rows[0] if name not in KEY}
                upsert = statement.on_conflict_do_update(index_elements=KEY, set_=settable)
                session.scalars(upsert.returning(Client)).all()

    return write


def django_orm(url: str, company_id: int) -> Write:
    """Upsert with Django: `bulk_create(update_conflicts=True)`."""
    import django
    from django.conf import settings
    from django.db import models, transaction

    if not settings.configured:
        parts = psycopg.conninfo.conninfo_to_dict(url)
        settings.configure(
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": parts.get("dbname"),
                    "USER": parts.get("user", ""),
                    "PASSWORD": parts.get("password", ""),
                    "HOST": parts.get("host", ""),
                    "PORT": parts.get("port", ""),
                }
            },
            USE_TZ=True,
        )
        django.setup()

    class DjangoClient(models.Model):
        id = models.BigAutoField(primary_key=True)
        company_id = models.BigIntegerField()
        yclients_id = models.BigIntegerField()
        name = models.TextField()
        phone = models.TextField()
        email = models.TextField()
        visit_count = models.IntegerField()
        total_spent = models.DecimalField(max_digits=12, decimal_places=2)
        comment = models.TextField()
        search_name = models.TextField()

        class Meta:
            app_label = "benchmarks"
            db_table = Client.__tablename__
            managed = False

    def write(rows: Sequence[Row]) -> None:
        with transaction.atomic():
            DjangoClient.objects.bulk_create(
                [DjangoClient(company_id=company_id, **row) for row in rows],
                update_conflicts=True,
                unique_fields=list(KEY),
                update_fields=[name for name in rows[0] if name not in KEY],
            )

    return write


def advanced_alchemy(url: str, company_id: int) -> Write:
    """Upsert with advanced-alchemy: `upsert_many`, matching by the YClients id."""
    from advanced_alchemy.repository import SQLAlchemySyncRepository

    class Base(DeclarativeBase):
        pass

    class AlchemyClient(Base):
        __tablename__ = Client.__tablename__
        __table_args__ = (UniqueConstraint(*KEY),)

        id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
        company_id: Mapped[int] = mapped_column(BigInteger)
        yclients_id: Mapped[int] = mapped_column(BigInteger)
        name: Mapped[str]
        phone: Mapped[str]
        email: Mapped[str]
        visit_count: Mapped[int]
        total_spent: Mapped[Decimal]
        comment: Mapped[str]
        search_name: Mapped[str]

    class AlchemyClients(SQLAlchemySyncRepository[AlchemyClient]):
        model_type = AlchemyClient

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))

    def write(rows: Sequence[Row]) -> None:
        with Session(engine) as session, session.begin():
            records = [AlchemyClient(company_id=company_id, **row) for row in rows]
            AlchemyClients(session=session).upsert_many(records, match_fields=list(KEY))

    return write


PEERS = (
    OrmPeer("SQLAlchemy ORM: INSERT … ON CONFLICT … RETURNING, 500 rows each", sqlalchemy_orm, 10),
    OrmPeer("Django: bulk_create(update_conflicts=True)", django_orm, 4),
    OrmPeer("advanced-alchemy: upsert_many", advanced_alchemy, 20),
)
