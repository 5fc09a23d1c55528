"""One bad row never costs the good ones: what the database refuses is split until the bad rows are alone."""

from collections.abc import Callable
from typing import Any

from app.data_layer.unit_of_work import UnitOfWorkFactory
from app.errors import ConflictError, InvalidInputError, SlotTakenError
from app.repositories import Repositories
from app.repositories.base import Repository
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import Batch, RejectedRow

# What a row can be at fault for: a constraint, an encoding, a deadlock that did not go away. Everything
# else (no database, no such company, no time left) would meet every row alike and ends the call.
ROW_ERRORS = (InvalidInputError, ConflictError, SlotTakenError)


def bulk_upsert_bisecting(
    uow_factory: UnitOfWorkFactory,
    company_id: int,
    select_repository: Callable[[Repositories], Repository[Any]],
    batch: Batch,
) -> UpsertReport:
    """Merge a validated batch; set aside the rows that the database refuses, each with its reason.

    One transaction where all goes well; otherwise each half of the rows gets its own, and so on, which
    takes O(bad x log rows) statements. Rows of one key are folded into one first, so that the halves do
    not depend on each other. Raises what is no row's fault; what had landed by then stays.
    """

    def land(part: Batch) -> UpsertReport:
        if not part.rows:
            return UpsertReport()
        try:
            return uow_factory.transact(company_id, lambda uow: select_repository(uow).merge_distinct(part))
        except ROW_ERRORS as error:
            if len(part.rows) == 1:
                return UpsertReport(rejected=[_rejected_row(part, error)])
        halves = part.split()
        landed = land(halves[0])
        landed.add(land(halves[1]))
        return landed

    report = (
        select_repository(uow_factory.read_only_repositories(company_id))
        .deduplicate(batch)
        .merge_in_order(land)
    )
    report.rejected.sort(key=lambda rejected: rejected.position)
    return report


def _rejected_row(part: Batch, error: InvalidInputError | ConflictError | SlotTakenError) -> RejectedRow:
    reasons = getattr(error, "fields", None) or {"row": error.message}
    return RejectedRow(part.positions[0], part.schema.readable_key(part.rows[0]), reasons)
