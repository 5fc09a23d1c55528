"""Bulk upsert that finds the rows that the database refuses by bisection and stores all others."""

from collections.abc import Callable
from typing import Any

from app.data_layer.unit_of_work import UnitOfWorkFactory
from app.errors import ConflictError, InvalidInputError, SlotTakenError
from app.repositories import Repositories
from app.repositories.base import Repository
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import Batch, RejectedRow

# Errors that one row can cause: a violated constraint, an encoding, a persistent deadlock. All other errors,
# such as an unreachable database or an unknown company, concern every row and end the call.
ROW_ERRORS = (InvalidInputError, ConflictError, SlotTakenError)


def bulk_upsert_bisecting(
    uow_factory: UnitOfWorkFactory,
    company_id: int,
    select_repository: Callable[[Repositories], Repository[Any]],
    batch: Batch,
) -> UpsertReport:
    """Merge a validated batch and return a report with the rejected rows and their reasons.

    All rows are merged in one transaction if possible. After an error, each half is merged in its own
    transaction, and so on, which takes O(bad rows x log rows) transactions. Rows with the same key are first
    combined into one, so that the halves are independent. Raises errors that no row causes; rows that were
    committed before stay committed.
    """

    def merge_part(part: Batch) -> UpsertReport:
        if not part.rows:
            return UpsertReport()
        try:
            return uow_factory.transact(company_id, lambda uow: select_repository(uow).merge_distinct(part))
        except ROW_ERRORS as error:
            if len(part.rows) == 1:
                return UpsertReport(rejected=[_rejected_row(part, error)])
        halves = part.split()
        report = merge_part(halves[0])
        report.add(merge_part(halves[1]))
        return report

    report = (
        select_repository(uow_factory.read_only_repositories(company_id))
        .deduplicate(batch)
        .merge_in_order(merge_part)
    )
    report.rejected.sort(key=lambda rejected: rejected.position)
    return report


def _rejected_row(part: Batch, error: InvalidInputError | ConflictError | SlotTakenError) -> RejectedRow:
    reasons = getattr(error, "fields", None) or {"row": error.message}
    return RejectedRow(part.positions[0], part.schema.readable_key(part.rows[0]), reasons)
