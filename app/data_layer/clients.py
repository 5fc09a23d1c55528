"""Clients and their appointments."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import (
    Operations,
    validate_cursor,
    validate_id,
    validate_ids,
    validate_limit,
    validate_name_part,
    validate_optional_instant,
)
from app.models import Booking, Client
from app.repositories.batch_dedup import UpsertReport


class ClientOperations(Operations):
    """Operations on clients. `*_by_id` and `*_by_ids` take YClients ids."""

    @operation(Client)
    def get_client_by_phone(self, phone: str) -> Client | None:
        """Return the client with this phone number in any format, or None.

        If several clients have the number, the one stored first is returned.
        """
        repositories = self._read_only_repositories
        return repositories.clients.find_by_phone(self._phone(repositories, phone))

    @operation(Client)
    def get_client_by_id(self, id: int) -> Client | None:
        """Return the client with this YClients id, or None. A client deleted in YClients has `deleted_at`."""
        return self._read_only_repositories.clients.find_by_ids([validate_id("id", id)])[0]

    @operation(Client)
    def get_clients_by_ids(self, ids: Sequence[int]) -> list[Client | None]:
        """Return the clients with these YClients ids in the order of `ids`, None for missing ones."""
        return self._read_only_repositories.clients.find_by_ids(validate_ids("ids", ids))

    @operation(Client)
    def get_clients(self, limit: int = 100, after: int | None = None) -> list[Client]:
        """Return a page of clients in the order of Frontdesk's `id`.

        `after` is the `id` of the last client of the previous page.
        """
        clients = self._read_only_repositories.clients.page(
            validate_limit("limit", limit), validate_cursor("after", after)
        )
        return list(clients)

    @operation(Client)
    def search_clients_by_name(self, text: str, limit: int = 20) -> list[Client]:
        """Return clients whose name, surname or patronymic contains `text`, ignoring case."""
        part = validate_name_part("text", text)
        return list(self._read_only_repositories.clients.search_by_name(part, validate_limit("limit", limit)))

    @operation(Client)
    def upsert_client(self, data: Mapping[str, Any]) -> Client:
        """Insert or update a client by `yclients_id`; return the stored client."""
        return self._transact(lambda uow: uow.clients.upsert(data))

    @operation(Client)
    def upsert_clients(self, rows: Iterable[Mapping[str, Any]]) -> UpsertReport:
        """Insert or update many clients by `yclients_id`. The report lists invalid rows."""
        return self._upsert_all(lambda repositories: repositories.clients, rows)

    @operation(Booking)
    def get_client_appointments(
        self, phone: str, start: datetime | None = None, end: datetime | None = None
    ) -> list[Booking]:
        """Return the client's bookings that start in [start, end), including cancelled ones, by start."""
        repositories = self._read_only_repositories
        period = validate_optional_instant("start", start), validate_optional_instant("end", end)
        return list(
            repositories.bookings.find_by_client_phone(
                self._phone(repositories, phone), *period, include_cancelled=True
            )
        )

    @operation(Booking)
    def get_upcoming_appointments(self, phone: str, now: datetime | None = None) -> list[Booking]:
        """Return the client's active bookings that start at `now` (default: the current time) or later.

        The earliest booking comes first.
        """
        repositories = self._read_only_repositories
        start = validate_optional_instant("now", now) or datetime.now(UTC)
        return list(
            repositories.bookings.find_by_client_phone(
                self._phone(repositories, phone), start, None, include_cancelled=False
            )
        )
