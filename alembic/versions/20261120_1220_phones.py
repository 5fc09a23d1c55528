"""Convert phones to E.164, using the company's country; invalid phones are logged and stay unchanged.

Revises: booking_slots
Created: 2026-11-20 12:20
"""

import re

import phonenumbers

from app.migrations import backfill
from app.migrations import operations as changes

revision = "phones"
down_revision = "booking_slots"
branch_labels = None
depends_on = None

# Most numbers are Russian mobile numbers, for which this pattern is forty times as fast as phonenumbers. Some
# ranges that begin with 930 are unassigned, so those numbers are left to phonenumbers.
RUSSIAN_MOBILE = re.compile(
    r"(?:\+7|8|7)?[ \-(]{0,2}(9(?!30)\d{2})[ \-)]{0,2}(\d{3})[ \-]?(\d{2})[ \-]?(\d{2})", re.ASCII
)

COLUMNS = (("companies", "phone"), ("clients", "phone"), ("bookings", "client_phone"))


def upgrade() -> None:
    countries = dict(changes.bind().exec_driver_sql("SELECT company_id, country FROM companies").all())
    for table, column in COLUMNS:
        for rows in backfill.batches(table, column, f"{column} IS NOT NULL"):
            changed, read = [], []
            for company, row_id, phone in rows:
                number = e164(phone, countries.get(company, "RU"))
                if number is None:
                    changes.log.warning(
                        "%s: company %s, id %s: %s cannot be read", table, company, row_id, column
                    )
                elif number != phone:
                    changed.append((company, row_id, number))
                    read.append(phone)
            backfill.update_each(table, column, changed, unless_changed=(column, read))


def e164(text: str, country: str) -> str | None:
    """Parse a number of the country, or an international number without its `+`; return None if invalid.

    A country without a known ISO code counts as Russia, the default.
    """
    country = country if country in phonenumbers.SUPPORTED_REGIONS else "RU"
    if country == "RU" and (mobile := RUSSIAN_MOBILE.fullmatch(text)):
        return "+7" + "".join(mobile.groups())
    digits = re.sub(r"\D", "", text)
    if len(text) > 40 or re.search(r"[^\W\d_]", text):
        return None
    for candidate, region in ((text, country), ("+" + digits.removeprefix("00"), None)):
        try:
            number = phonenumbers.parse(candidate, region)
        except phonenumbers.NumberParseException:
            continue
        if number.extension is None and phonenumbers.is_valid_number(number):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return None


def downgrade() -> None:
    """Change nothing: numbers in E.164 are valid in the old schema."""
