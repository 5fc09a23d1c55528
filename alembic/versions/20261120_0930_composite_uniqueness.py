"""Make YClients ids unique per company: composite constraints replace single-column ones.

Revises: archive
Created: 2026-11-20 09:30
"""

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from app.adoption import duplicate_groups
from app.migrations import backfill, introspection
from app.migrations import operations as changes
from app.migrations.runner import MigrationRefused

revision = "composite_uniqueness"
down_revision = "archive"
branch_labels = None
depends_on = None

CONSTRAINTS = {
    "clients": ("clients_yclients_company_unique", ("yclients_id", "company_id")),
    "services": ("services_yclients_company_unique", ("yclients_id", "company_id")),
    "staff": ("staff_yclients_company_unique", ("yclients_id", "company_id")),
    "bookings": ("bookings_yclients_company_unique", ("yclients_record_id", "company_id")),
    "staff_schedules": ("uq_staff_schedules_staff_id_date_company_id", ("staff_id", "date", "company_id")),
    "dialog_contexts": ("uq_dialog_contexts_user_id_company_id", ("user_id", "company_id")),
}

# Indexes of the old schema, by their columns, because their names differ between installations.
SINGLE_COLUMN_UNIQUE = (
    ("clients", "yclients_id"),
    ("clients", "phone"),
    ("services", "yclients_id"),
    ("staff", "yclients_id"),
    ("bookings", "yclients_record_id"),
    ("dialog_contexts", "user_id"),
)
SUPERSEDED = (
    ("staff", ("yclients_id",)),
    ("bookings", ("yclients_record_id",)),
    ("staff_schedules", ("staff_id", "date")),
    ("dialog_contexts", ("user_id",)),
)

ROUNDS = 20  # attempts to build an index while writers add duplicates


def preflight(connection: Connection) -> None:
    """Refuse the upgrade if there are duplicates and no option to merge them."""
    if changes.option("dedupe") is None:
        duplicate_groups.refuse_duplicates(connection, duplicate_groups.RULES.values())


def upgrade() -> None:
    for table, (name, columns) in CONSTRAINTS.items():
        make_unique(table, name, columns)
    for table, column in SINGLE_COLUMN_UNIQUE:
        changes.drop_indexes_on(table, [column], unique=True)
    for table, old_columns in SUPERSEDED:
        changes.drop_indexes_on(table, old_columns)


def make_unique(table: str, name: str, columns: tuple[str, ...]) -> None:
    """Merge the duplicates and build the constraint; repeat if writers added duplicates in between."""
    for _ in range(ROUNDS):
        if not any(index.is_usable for index in introspection.unique_indexes_on(table, columns)):
            if changes.option("dedupe") is None:
                duplicate_groups.refuse_duplicates(changes.bind(), [duplicate_groups.RULES[table]])
            merge_duplicates(table)
        try:
            changes.add_unique_constraint(table, name, columns)
        except IntegrityError:
            changes.log.info("New duplicates in %s while its index was built; merging them, too", table)
        else:
            return
    raise MigrationRefused(
        f"Writers keep adding duplicates to {table}: stop them, then run the same command again."
    )


def merge_duplicates(table: str) -> None:
    rule = duplicate_groups.RULES[table]
    for group in duplicate_groups.find_groups(changes.bind(), rule):
        changes.commit()  # each group in a transaction of its own
        while duplicate_groups.merge(changes.bind(), rule, group):
            changes.commit()
    changes.commit()


def downgrade() -> None:
    for table in ("clients", "services"):
        refuse_repeated(table, "yclients_id")
    refuse_repeated("clients", "phone")
    if not introspection.indexes_on("clients", ["phone"], unique=True):
        changes.add_unique_constraint("clients", "clients_phone_key", ["phone"])
    with changes.outside_transaction():
        for name, table, columns, unique in (
            ("clients_yclients_id_key", "clients", ["yclients_id"], True),
            ("services_yclients_id_key", "services", ["yclients_id"], True),
            ("staff_yclients_id_idx", "staff", ["yclients_id"], False),
            ("bookings_yclients_id_idx", "bookings", ["yclients_record_id"], False),
            ("staff_schedules_staff_date_idx", "staff_schedules", ["staff_id", "date"], False),
            ("dialog_contexts_user_idx", "dialog_contexts", ["user_id"], False),
        ):
            changes.build_index(table, name, columns, unique=unique)
    for table, (name, _) in CONSTRAINTS.items():
        changes.drop_index(name, table, name)


def refuse_repeated(table: str, column: str) -> None:
    backfill.refuse_rows(
        table,
        f"{column} IN (SELECT {column} FROM {table} GROUP BY {column} HAVING count(*) > 1)",
        f"shares its {column} with another row",
    )
