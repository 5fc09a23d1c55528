"""Clients: searches by phone and by a part of the name, and upserts."""

from collections.abc import Sequence
from operator import itemgetter

from sqlalchemy import ARRAY, BigInteger, any_, bindparam, func, literal, select

from app.database.bulk_merge import DerivedColumn, MergeResult, MergeTarget, OverwritePolicy, merge
from app.database.query import Query
from app.models import Client
from app.repositories.base import filtered_by_company
from app.repositories.mirrored_rows import MirroredRepository
from app.schemas import rows as schemas
from app.schemas.schema import Values
from app.text import fold_case, search_name

_NAME_PARTS = ("name", "surname", "patronymic")
_present = filtered_by_company(select(Client)).where(Client.deleted_at.is_(None))
# Two clients may share a phone; the lower id wins.
_BY_PHONE = Query(_present.where(Client.phone == bindparam("phone")).order_by(Client.id).limit(1))
_BY_NAME = Query(
    _present.where(Client.search_name.like(bindparam("pattern"), escape="\\"))
    .order_by(Client.search_name, Client.id)
    .limit(bindparam("limit"))
)
_PAGE = Query(_present.where(Client.id > bindparam("after")).order_by(Client.id).limit(bindparam("limit")))


class ClientRepository(MirroredRepository[Client]):
    """The salon's clients."""

    model = Client
    schema = schemas.CLIENT
    target = MergeTarget(Client, ("yclients_id",), OverwritePolicy.NOT_OLDER)

    def find_by_phone(self, phone: str) -> Client | None:
        """Return the client with this E.164 phone, or None. Of several, return the one with the lowest id."""
        found = self._read(_BY_PHONE, phone=phone)
        return found[0] if found else None

    def search_by_name(self, text: str, limit: int) -> Sequence[Client]:
        """Return clients whose name contains `text`, ignoring case. `%` and `_` have no special meaning."""
        literal = fold_case(text.strip()).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return self._read(_BY_NAME, pattern=f"%{literal}%", limit=limit)

    def page(self, limit: int, after: int | None) -> Sequence[Client]:
        """Return up to `limit` clients with an `id` above `after`, in the order of `id`."""
        return self._read(_PAGE, after=after or 0, limit=limit)

    def find_or_create(self, values: Values) -> Client:
        """Return the client with the YClients id of `values` (without an id: its phone); insert a new one.

        An advisory lock on the phone prevents two concurrent first bookings from creating two clients. An
        existing client is not changed, except that it may get its YClients id.
        """
        lock = func.hashtextextended(f"client {self.tenant.company_id} {values['phone']}", 0)
        self._open_session.execute(select(func.pg_advisory_xact_lock(lock)))
        yclients_id = values.get("yclients_id")
        if yclients_id is None:
            client = self.find_by_phone(values["phone"])
        else:
            self.set_yclients_id(values["phone"], yclients_id)
            client = self.find_one(yclients_id=yclients_id)
        if client is None:
            names = [values.get(part) for part in _NAME_PARTS]
            client = Client(
                **{"source": "assistant", **values},
                company_id=self.tenant.company_id,
                search_name=search_name(*names),
            )
            self._open_session.add(client)
            self._open_session.flush()
            self._open_session.refresh(client)
        return client

    def set_yclients_id(self, phone: str, yclients_id: int) -> None:
        """Set the YClients id of the client made here with this phone, unless another row has that id."""
        self._set_yclients_ids_by_phone([{"yclients_id": yclients_id, "phone": phone}])

    def _merge_uniform_rows(self, names: frozenset[str], rows: list[Values]) -> MergeResult:
        if "phone" in names:
            self._set_yclients_ids_by_phone(rows)
        columns = self._columns(names)
        values = [
            (*row_values, search_name(*map(row.get, _NAME_PARTS)))
            for row, row_values in zip(rows, map(itemgetter(*columns), rows), strict=True)
        ]
        # If the row lacks name parts, search_name is computed from the stored and the new parts.
        missing = tuple(part for part in _NAME_PARTS if part not in names)
        derived = DerivedColumn("search_name", missing) if missing else None
        merged = merge(
            self._connection,
            self.target,
            self.tenant.company_id,
            (*columns, "search_name"),
            values,
            derived=derived,
        )
        if merged.underived_ids:
            self._recompute_search_names(merged.underived_ids)
        return merged

    def _recompute_search_names(self, ids: list[int]) -> None:
        """Recompute `search_name` of these clients from their stored name parts."""
        parts = [getattr(Client, part) for part in _NAME_PARTS]
        rows = self._open_session.execute(
            select(Client.id, Client.search_name, *parts).where(
                Client.company_id == self.tenant.company_id,
                Client.id == any_(literal(ids, ARRAY(BigInteger))),
            )
        )
        names = {row_id: folded for row_id, stored, *of in rows if stored != (folded := search_name(*of))}
        if names:
            self._connection.execute(
                """
                UPDATE clients SET search_name = folded.name
                FROM unnest(%(ids)s::bigint[], %(names)s::text[]) AS folded (id, name)
                WHERE clients.company_id = %(company_id)s AND clients.id = folded.id
                """,
                {"company_id": self.tenant.company_id, "ids": list(names), "names": list(names.values())},
            )

    def _set_yclients_ids_by_phone(self, rows: list[Values]) -> None:
        """Set the YClients ids of clients made here, matched by phone, so that no second row is inserted."""
        ours = self._open_session.execute(
            select(Client.phone, Client.id)
            .where(
                Client.company_id == self.tenant.company_id,
                Client.yclients_id.is_(None),
                Client.phone.is_not(None),
                Client.deleted_at.is_(None),
            )
            .order_by(Client.id.desc())
        )
        id_by_phone = {row.phone: row.id for row in ours}
        if not id_by_phone:
            return
        pairs = {
            id_by_phone.pop(row["phone"]): row["yclients_id"]
            for row in rows
            if row.get("phone") in id_by_phone
        }
        self._connection.execute(
            """
            UPDATE clients AS ours SET yclients_id = given.yclients_id, updated_at = now()
            FROM unnest(%(ids)s::bigint[], %(yclients_ids)s::bigint[]) AS given (id, yclients_id)
            WHERE ours.company_id = %(company_id)s AND ours.id = given.id AND NOT EXISTS (
                SELECT FROM clients AS theirs
                WHERE theirs.company_id = %(company_id)s AND theirs.yclients_id = given.yclients_id
            )
            """,
            {
                "company_id": self.tenant.company_id,
                "ids": list(pairs),
                "yclients_ids": list(pairs.values()),
            },
        )
