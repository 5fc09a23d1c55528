"""Operations on the services of the price list."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import Operations, validate_flag, validate_id, validate_ids
from app.models import Service
from app.repositories.batch_dedup import UpsertReport


class ServiceOperations(Operations):
    """Operations on services. `*_by_id` and `*_by_ids` take YClients ids."""

    @operation(Service)
    def get_services(self, include_inactive: bool = False) -> list[Service]:
        """Return the active services, or all with `include_inactive`, by weight and title."""
        include_inactive = validate_flag("include_inactive", include_inactive)
        return list(self._read_only_repositories.services.price_list(include_inactive))

    @operation(Service)
    def get_service_by_id(self, id: int) -> Service | None:
        """Return the service with this YClients id, or None."""
        return self._read_only_repositories.services.find_by_ids([validate_id("id", id)])[0]

    @operation(Service)
    def get_services_by_ids(self, ids: Sequence[int]) -> list[Service | None]:
        """Return the services with these YClients ids in the order of `ids`, None for missing ones."""
        return self._read_only_repositories.services.find_by_ids(validate_ids("ids", ids))

    @operation(Service)
    def get_services_by_category(self, category_id: int) -> list[Service]:
        """Return the active services of a category (YClients id)."""
        return list(
            self._read_only_repositories.services.in_category(validate_id("category_id", category_id))
        )

    @operation(Service)
    def upsert_service(self, data: Mapping[str, Any]) -> Service:
        """Insert or update a service by `yclients_id`. `staff`, its performers, is replaced if given."""
        return self._transact(lambda uow: uow.services.upsert(data))

    @operation(Service)
    def upsert_services(self, rows: Iterable[Mapping[str, Any]]) -> UpsertReport:
        """Insert or update many services by `yclients_id`. The report lists invalid rows."""
        return self._upsert_all(lambda repositories: repositories.services, rows)
