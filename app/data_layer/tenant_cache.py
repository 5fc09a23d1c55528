"""Cache of the tenant context (country and time zone) of each company."""

import logging
import time
from zoneinfo import ZoneInfo

import phonenumbers

from app.database.query import PoolReader
from app.models.company import DEFAULT_COUNTRY, DEFAULT_TIMEZONE, Company
from app.repositories.base import Tenant
from app.repositories.companies import CompanyRepository

log = logging.getLogger(__name__)

TENANT_CACHE_SECONDS = 60.0  # other processes see a changed country or time zone after this time


class TenantCache:
    """Returns tenants by company id, and keeps each for TENANT_CACHE_SECONDS."""

    def __init__(self, reader: PoolReader) -> None:
        self._reader = reader
        self._known: dict[int, tuple[float, Tenant]] = {}
        self._warned: set[int] = set()

    def get(self, company_id: int) -> Tenant:
        """Return the tenant of a company, with the defaults RU and Europe/Moscow for an unknown company."""
        return self.find(company_id) or default_tenant(company_id)

    def find(self, company_id: int) -> Tenant | None:
        """Return the tenant of a company, or None for an unknown company, which is not cached."""
        cached = self._known.get(company_id)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        company = CompanyRepository(default_tenant(company_id), self._reader).get()
        if company is None:
            return None
        tenant = tenant_of(company_id, company)
        if (tenant.country, tenant.timezone.key) != (company.country, company.timezone):
            self._warn_once(company_id)
        self._known[company_id] = (time.monotonic() + TENANT_CACHE_SECONDS, tenant)
        return tenant

    def invalidate(self, company_id: int) -> None:
        """Read the company from the database at the next `get`."""
        self._known.pop(company_id, None)

    def _warn_once(self, company_id: int) -> None:
        if company_id not in self._warned:
            self._warned.add(company_id)
            log.warning(
                "Company %s has an unknown country or time zone; the default is used instead (%s, %s).",
                company_id,
                DEFAULT_COUNTRY,
                DEFAULT_TIMEZONE,
            )


def default_tenant(company_id: int) -> Tenant:
    """Return the tenant of a company without a row: RU and Europe/Moscow."""
    return Tenant(company_id, DEFAULT_COUNTRY, ZoneInfo(DEFAULT_TIMEZONE))


def tenant_of(company_id: int, company: Company) -> Tenant:
    """Return the tenant of a company. RU and Europe/Moscow replace unknown values."""
    defaults = default_tenant(company_id)
    is_known = company.country in phonenumbers.SUPPORTED_REGIONS
    return Tenant(
        company_id,
        company.country if is_known else defaults.country,
        _zone(company.timezone) or defaults.timezone,
    )


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, malformed, a directory
        return None
