"""Require a time zone and a country (ISO 3166) for each company, and add `is_active`.

Revises: tenant_keys
Created: 2026-11-20 10:40
"""

from babel import Locale

from app.migrations import backfill
from app.migrations import operations as changes

revision = "companies"
down_revision = "tenant_keys"
branch_labels = None
depends_on = None

DEFAULTS = {"timezone": "Europe/Moscow", "country": "RU"}
LANGUAGES = ("ru", "en", "uk", "kk", "be")


def upgrade() -> None:
    changes.execute("ALTER TABLE companies ADD COLUMN IF NOT EXISTS is_active BOOLEAN NOT NULL DEFAULT true")
    for column, default in DEFAULTS.items():
        changes.execute(f"ALTER TABLE companies ALTER COLUMN {column} SET DEFAULT '{default}'")
        changes.commit()
        changes.execute(
            f"UPDATE companies SET {column} = '{default}' WHERE coalesce(btrim({column}), '') = ''"
        )
        changes.commit()
        changes.set_not_null("companies", column)
    for name, code in country_codes().items():
        changes.execute("UPDATE companies SET country = :code WHERE country = :name", code=code, name=name)


def country_codes() -> dict[str, str]:
    """Return ISO codes for the stored country names; YClients sends localized names ("Россия").

    Unknown names are omitted and stay as they are.
    """
    names = changes.bind().exec_driver_sql("SELECT DISTINCT country FROM companies").scalars().all()
    known = {
        name.casefold(): code
        for language in reversed(LANGUAGES)
        for code, name in Locale(language).territories.items()
        if len(code) == 2 and code.isalpha()
    }
    codes = {code: code for code in known.values()}
    stored = {name: known.get(name.strip().casefold()) or codes.get(name.strip().upper()) for name in names}
    return {name: code for name, code in stored.items() if code is not None and code != name}


def downgrade() -> None:
    backfill.refuse_rows("companies", "NOT is_active", "is not active")
    for column in DEFAULTS:
        changes.execute(
            f"ALTER TABLE companies ALTER COLUMN {column} DROP NOT NULL, ALTER COLUMN {column} DROP DEFAULT"
        )
    changes.execute("ALTER TABLE companies DROP COLUMN IF EXISTS is_active")
