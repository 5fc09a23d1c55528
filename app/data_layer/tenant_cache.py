"""Each company's country and time zone, remembered for a minute; every phone and local day needs them."""

import logging
import time
from zoneinfo import ZoneInfo

import phonenumbers

from app.database.query import PoolReader
from app.models.company import DEFAULT_COUNTRY, DEFAULT_TIMEZONE, Company
from app.repositories.base import Tenant
from app.repositories.companies import CompanyRepository

log = logging.getLogger(__name__)

TENANT_CACHE_SECONDS = 60.0  # seconds; another process sees a changed country or time zone after that


class TenantCache:
    """Looks scopes up by company."""

    def __init__(self, reader: PoolReader) -> None:
        self._reader = reader
        self._known: dict[int, tuple[float, Tenant]] = {}
        self._warned: set[int] = set()

    def get(self, company_id: int) -> Tenant:
        """The company's scope; the defaults (RU, Europe/Moscow) where the company is not known yet."""
        remembered = self._known.get(company_id)
        if remembered is not None and remembered[0] > time.monotonic():
            return remembered[1]
        company = CompanyRepository(tenant_of(company_id, None), self._reader).get()
        scope = tenant_of(company_id, company)
        if company is None:
            return scope
        if (scope.country, scope.timezone.key) != (company.country, company.timezone):
            self._warn_once(company_id)
        self._known[company_id] = (time.monotonic() + TENANT_CACHE_SECONDS, scope)
        return scope

    def invalidate(self, company_id: int) -> None:
        """Look the company up again next time."""
        self._known.pop(company_id, None)

    def _warn_once(self, company_id: int) -> None:
        if company_id not in self._warned:
            self._warned.add(company_id)
            log.warning(
                "Company %s has a country or time zone that is not known; using %s and %s where needed.",
                company_id,
                DEFAULT_COUNTRY,
                DEFAULT_TIMEZONE,
            )


def tenant_of(company_id: int, company: Company | None) -> Tenant:
    """The company's scope; RU and Europe/Moscow where it is not known, or what it says is not."""
    defaults = Tenant(company_id, DEFAULT_COUNTRY, ZoneInfo(DEFAULT_TIMEZONE))
    if company is None:
        return defaults
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
