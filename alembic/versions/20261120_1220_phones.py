"""Phones in E.164, read by the company's country; what cannot be read stays and is listed.

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

# Most numbers are Russian mobiles, and phonenumbers takes forty times as long. (Some that begin with 930 are
# nobody's: those take the long way.)
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
    """Read a number of the country, or an international one that lost its `+`; None where it is neither.

    A country that could not be mapped to a code counts as Russia, the default.
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
    """Nothing to undo: E.164 fits the old columns, and reads as the same number."""
