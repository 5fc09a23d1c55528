"""Store start and end of a booking, and reduce the status to two values. Rewrites the table once.

Revises: schedules
Created: 2026-11-20 11:50
"""

from sqlalchemy import Connection

from app.migrations import backfill, introspection
from app.migrations import operations as changes

revision = "booking_times"
down_revision = "schedules"
branch_labels = None
depends_on = None

CHECKS = (
    ("ck_bookings_id_unless_assistant", "source = 'assistant' OR yclients_record_id IS NOT NULL"),
    ("ck_bookings_source", "source IN ('yclients', 'assistant')"),
    ("ck_bookings_status", "status IN ('active', 'cancelled')"),
    ("ck_bookings_attendance", "attendance BETWEEN -1 AND 2"),
    ("ck_bookings_ends_after_start", "ends_at > starts_at"),
)
# Times outside of Python's range, with a margin for time zones; no real booking has them.
UNREADABLE = "datetime NOT BETWEEN '0001-01-02 00:00+00' AND '9900-01-01 00:00+00'"


def preflight(connection: Connection) -> None:
    changes.refuse_large_rewrite(connection, "bookings")


def upgrade() -> None:
    if introspection.has_column("bookings", "datetime"):
        start_and_end()
    changes.execute(
        "-- squawk-ignore ban-drop-not-null -- a booking made here has no YClients id yet\n"
        "ALTER TABLE bookings ALTER COLUMN yclients_record_id DROP NOT NULL"
    )
    changes.commit()
    for name, condition in CHECKS:
        changes.add_not_valid_constraint("bookings", name, f"CHECK ({condition})")
        changes.validate_constraint("bookings", name)


def start_and_end() -> None:
    """Convert the columns in one transaction, so that exactly the rows with lost information are archived."""
    changes.log_rewrite("bookings")
    changes.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
    backfill.archive("bookings", UNREADABLE, "datetime is not a time")
    changes.execute(f"DELETE FROM bookings WHERE {UNREADABLE}")
    backfill.archive(
        "bookings",
        "status NOT IN ('active', 'cancelled')",
        "status is neither active nor cancelled",
        kept_id="old.id",
    )
    changes.execute(
        "UPDATE bookings SET status = CASE WHEN lower(btrim(status)) IN"
        " ('cancelled', 'canceled', 'cancel', 'deleted', 'отменена', 'отменен', 'отменён')"
        " THEN 'cancelled' ELSE 'active' END WHERE status NOT IN ('active', 'cancelled')"
    )
    backfill.archive(
        "bookings", "duration <= 0", "duration is not positive; an hour is assumed", kept_id="old.id"
    )
    changes.execute(
        "-- squawk-ignore renaming-column -- the old code is stopped; a second column could diverge\n"
        "ALTER TABLE bookings RENAME COLUMN datetime TO starts_at"
    )
    changes.execute(
        "-- squawk-ignore changing-column-type, adding-not-nullable-field -- logged; it scans anyway\n"
        "ALTER TABLE bookings ALTER COLUMN duration TYPE timestamptz"
        " USING starts_at + make_interval(secs => CASE WHEN duration > 0 THEN duration ELSE 3600 END),"
        " ALTER COLUMN duration SET NOT NULL"
    )
    changes.execute(
        "-- squawk-ignore renaming-column -- this transaction has converted its values to ends\n"
        "ALTER TABLE bookings RENAME COLUMN duration TO ends_at"
    )
    changes.commit_and_analyze("bookings")


def downgrade() -> None:
    backfill.refuse_rows("bookings", "yclients_record_id IS NULL", "has no YClients id yet")
    backfill.refuse_rows(
        "bookings",
        "extract(epoch FROM ends_at - starts_at) NOT BETWEEN 1 AND 2147483647"
        " OR extract(epoch FROM ends_at - starts_at) <> trunc(extract(epoch FROM ends_at - starts_at))",
        "does not last a whole number of seconds",
    )
    for name, _ in CHECKS:
        changes.execute(f"ALTER TABLE bookings DROP CONSTRAINT IF EXISTS {name}")
    changes.commit()
    if introspection.has_column("bookings", "ends_at"):
        changes.set_not_null("bookings", "yclients_record_id")
        changes.execute(
            "ALTER TABLE bookings ALTER COLUMN ends_at DROP NOT NULL,"
            " ALTER COLUMN ends_at TYPE integer USING extract(epoch FROM ends_at - starts_at)::integer"
        )
        changes.execute("ALTER TABLE bookings RENAME COLUMN ends_at TO duration")
        changes.execute("ALTER TABLE bookings RENAME COLUMN starts_at TO datetime")
