"""Create the baseline schema: the one of installations that are older than the migrations.

Revises:
Created: 2026-11-20 09:00
"""

from app.migrations import backfill, introspection
from app.migrations import operations as changes
from app.migrations.runner import MigrationRefused

revision = "baseline"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "companies",
    "clients",
    "services",
    "staff",
    "staff_schedules",
    "bookings",
    "dialog_contexts",
    "whatsapp_auth",
    "whatsapp_keys",
)

# Later revisions correct what the linter reports here.
SCHEMA = """
-- squawk-ignore-file prefer-bigint-over-int, prefer-identity, prefer-text-field, prefer-timestamp-tz
CREATE TABLE companies (
  id SERIAL PRIMARY KEY,
  company_id INTEGER NOT NULL UNIQUE,
  title VARCHAR(255) NOT NULL,
  phone VARCHAR(20),
  address TEXT,
  timezone VARCHAR(64),
  country VARCHAR(64),
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE TABLE clients (
  id SERIAL PRIMARY KEY,
  yclients_id INTEGER NOT NULL,
  company_id INTEGER NOT NULL,
  phone VARCHAR(20) NOT NULL UNIQUE,
  name VARCHAR(255) NOT NULL,
  email VARCHAR(255),
  visit_count INTEGER NOT NULL DEFAULT 0,
  total_spent NUMERIC(10,2),
  last_visit_date TIMESTAMP,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX clients_yclients_id_key ON clients (yclients_id);
CREATE INDEX clients_company_idx ON clients (company_id);
CREATE TABLE services (
  id SERIAL PRIMARY KEY,
  yclients_id INTEGER NOT NULL,
  company_id INTEGER NOT NULL,
  title VARCHAR(255) NOT NULL,
  category_id INTEGER,
  category_title VARCHAR(255),
  price_min NUMERIC(10,2),
  price_max NUMERIC(10,2),
  duration INTEGER,
  active BOOLEAN NOT NULL DEFAULT true,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX services_yclients_id_key ON services (yclients_id);
CREATE TABLE staff (
  id SERIAL PRIMARY KEY,
  yclients_id INTEGER NOT NULL,
  company_id INTEGER NOT NULL,
  name VARCHAR(255) NOT NULL,
  specialization VARCHAR(255),
  rating NUMERIC(3,2),
  fired BOOLEAN NOT NULL DEFAULT false,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE INDEX staff_yclients_id_idx ON staff (yclients_id);
CREATE TABLE staff_schedules (
  id SERIAL PRIMARY KEY,
  staff_id INTEGER NOT NULL,
  company_id INTEGER NOT NULL,
  date DATE NOT NULL,
  is_working BOOLEAN NOT NULL DEFAULT true,
  slots JSONB NOT NULL DEFAULT '[]',
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE INDEX staff_schedules_staff_date_idx ON staff_schedules (staff_id, date);
CREATE TABLE bookings (
  id SERIAL PRIMARY KEY,
  yclients_id INTEGER NOT NULL,
  company_id INTEGER NOT NULL,
  client_phone VARCHAR(20),
  client_name VARCHAR(255),
  staff_id INTEGER,
  service_ids JSONB NOT NULL DEFAULT '[]',
  datetime TIMESTAMP NOT NULL,
  duration INTEGER,
  status VARCHAR(32) NOT NULL DEFAULT 'active',
  comment TEXT,
  price NUMERIC(10,2),
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE INDEX bookings_yclients_id_idx ON bookings (yclients_id);
CREATE INDEX bookings_client_phone_idx ON bookings (client_phone);
CREATE TABLE dialog_contexts (
  id SERIAL PRIMARY KEY,
  user_id VARCHAR(64) NOT NULL,
  company_id INTEGER NOT NULL,
  stage VARCHAR(64),
  context JSONB NOT NULL DEFAULT '{}',
  last_activity TIMESTAMP,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE INDEX dialog_contexts_user_idx ON dialog_contexts (user_id);
CREATE TABLE whatsapp_auth (
  id SERIAL PRIMARY KEY,
  company_id VARCHAR(64) NOT NULL UNIQUE,
  creds JSONB NOT NULL,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now()
);
CREATE TABLE whatsapp_keys (
  id SERIAL PRIMARY KEY,
  company_id VARCHAR(64) NOT NULL,
  key_type VARCHAR(64) NOT NULL,
  key_id VARCHAR(255) NOT NULL,
  value JSONB NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL DEFAULT now(),
  updated_at TIMESTAMP NOT NULL DEFAULT now(),
  UNIQUE (company_id, key_type, key_id)
);
"""

COLUMNS = """
SELECT attname::text || ' ' || format_type(atttypid, atttypmod) ||
  CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
FROM pg_attribute WHERE attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped
"""


def columns(table: str) -> set[str]:
    return set(changes.bind().exec_driver_sql(COLUMNS.format(table=table)).scalars())


def upgrade() -> None:
    """Create the tables, or accept existing tables if their columns are exactly these."""
    existing = [table for table in TABLES if introspection.has_table(table)]
    if not existing:
        changes.execute(SCHEMA)
        return
    actual = {table: columns(table) for table in existing}
    # The temporary tables show the expected columns. They precede the real tables in the search path.
    changes.execute(SCHEMA.replace("CREATE TABLE", "CREATE TEMPORARY TABLE"))
    expected = {table: columns(table) for table in TABLES}
    for table in reversed(TABLES):
        changes.execute(f"DROP TABLE pg_temp.{table}")
    report = tuple(
        f"{table}: {sign} {column}"
        for table in TABLES
        for sign, some in (
            ("missing", expected[table] - actual.get(table, set())),
            ("unexpected", actual.get(table, set()) - expected[table]),
        )
        for column in sorted(some)
    )
    if report:
        raise MigrationRefused(
            "The database has no Alembic revision, but tables that differ from the baseline schema."
            " Run `frontdesk db adopt` to find out whether they match a later revision.",
            report,
        )
    changes.log.info("Found the tables of an existing installation; continuing with the next revision")


def downgrade() -> None:
    """Drop the tables if they are empty. Rows are kept at the revision `baseline`."""
    for table in TABLES:
        backfill.refuse_rows(table, "true", "would be dropped; `alembic downgrade baseline` keeps them")
    for table in reversed(TABLES):
        changes.execute(f"DROP TABLE {table}")
