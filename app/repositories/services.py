"""Services, their categories, and the staff that performs them."""

from collections.abc import Sequence
from operator import itemgetter

from sqlalchemy import bindparam, or_, select

from app.database.bulk_merge import MergeResult, MergeTarget, OverwritePolicy, merge
from app.database.query import Query
from app.models import Service, ServiceCategory, ServiceStaff
from app.repositories.base import filtered_by_company
from app.repositories.mirrored_rows import MirroredRepository
from app.schemas import rows as schemas
from app.schemas.schema import Values

_PRICE_LIST_ORDER = (Service.weight.desc().nulls_last(), Service.title, Service.id)
_present = (
    filtered_by_company(select(Service)).where(Service.deleted_at.is_(None)).order_by(*_PRICE_LIST_ORDER)
)
_ALL_SERVICES = Query(_present.where(or_(Service.is_active, bindparam("include_inactive"))))
_IN_CATEGORY = Query(_present.where(Service.is_active, Service.category_id == bindparam("category_id")))


class ServiceCategoryRepository(MirroredRepository[ServiceCategory]):
    """The categories of the price list."""

    model = ServiceCategory
    schema = schemas.SERVICE_CATEGORY
    target = MergeTarget(ServiceCategory, ("yclients_id",), OverwritePolicy.NOT_OLDER)


class ServiceRepository(MirroredRepository[Service]):
    """The price list. A row's `staff`, if given, replaces all `service_staff` rows of the service."""

    model = Service
    schema = schemas.SERVICE
    target = MergeTarget(Service, ("yclients_id",), OverwritePolicy.NOT_OLDER)

    def price_list(self, include_inactive: bool = False) -> Sequence[Service]:
        """Return the active services in price list order; with `include_inactive` all services."""
        return self._read(_ALL_SERVICES, include_inactive=include_inactive)

    def in_category(self, category_id: int) -> Sequence[Service]:
        """Return the active services of one category (YClients id)."""
        return self._read(_IN_CATEGORY, category_id=category_id)

    def _merge_uniform_rows(self, names: frozenset[str], rows: list[Values]) -> MergeResult:
        columns = self._columns(names)
        values = [*map(itemgetter(*columns), rows)]
        with_staff = "staff" in names
        merged = merge(
            self._connection, self.target, self.tenant.company_id, columns, values, want_ids=with_staff
        )
        if with_staff:
            services = {yclients_id: row_id for (yclients_id,), row_id in merged.ids_by_key.items()}
            performers = {
                (row["yclients_id"], performer["staff_id"]): performer.get("duration")
                for row in rows
                if row["yclients_id"] in services
                for performer in row["staff"]
            }
            self._replace_children(
                merged,
                ServiceStaff,
                ("service_id", "staff_id", "duration"),
                "yclients_id",
                services,
                [(*pair, duration) for pair, duration in performers.items()],
            )
        return merged
