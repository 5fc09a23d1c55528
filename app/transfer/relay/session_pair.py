"""A database session on each side of the transfer, and the state rows of both sides."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.errors import ConflictError, InvalidInputError
from app.transfer.protocol.endpoints import SideName, Sides, TransferConnection
from app.transfer.protocol.fencing import SideRow
from app.transfer.protocol.stages import Stage, other_side, read_side_rows, stage_of
from app.transfer.protocol.status import copied_tables
from app.transfer.protocol.tables import SCHEMA, TableInfo, transfer_tables
from app.transfer.relay.apply_cycle import (
    CycleResult,
    DirectionChangedError,
    TargetLock,
    lock_target,
    run_apply_cycle,
)

# Deleted log entries after which the log is vacuumed: each cycle scans the whole log, including dead rows.
VACUUM_AFTER_ENTRIES = 50_000


class NotStartedError(InvalidInputError):
    """No transfer has been started: run `frontdesk transfer start`."""


@dataclass(frozen=True)
class SideRows:
    """The state rows of both sides at the time of reading; None for a side without one."""

    legacy: SideRow | None
    primary: SideRow | None

    @property
    def stage(self) -> Stage:
        """The stage of the transfer that the rows imply."""
        return stage_of(self.legacy, self.primary)

    def require(self, name: SideName) -> SideRow:
        """Return the state row of one side. Raises NotStartedError if it has none."""
        row = self.legacy if name == "legacy" else self.primary
        if row is None:
            raise NotStartedError
        return row

    @property
    def ahead_and_behind(self) -> tuple[SideRow, SideRow]:
        """The state row with the higher epoch, then the other. Raises NotStartedError if one is missing."""
        ahead, behind = sorted((self.require("legacy"), self.require("primary")), key=lambda row: -row.epoch)
        return ahead, behind

    @property
    def source(self) -> SideName:
        """The live side, which the other follows.

        Raises NotStartedError if no transfer has been started, and ConflictError if no side is live.
        """
        if self.stage in (Stage.NOT_STARTED, Stage.STARTING):
            raise NotStartedError
        leading = [row.name for row in (self.legacy, self.primary) if row and row.state != "standby"]
        if len(leading) != 1:
            raise ConflictError(
                "No side accepts writes now: `frontdesk transfer status` shows what to do next."
            )
        return leading[0]


class SessionPair:
    """Sessions on both sides, opened on first use and opened again after they are lost."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._connections: dict[SideName, TransferConnection] = {}
        self._tables: list[TableInfo] = []
        self._tables_read_from: TransferConnection | None = None
        self._deleted_entries = 0

    def session(self, name: SideName) -> TransferConnection:
        """Return an open session on that side. Raises UnavailableError if the server cannot be reached."""
        known = self._connections.get(name)
        if known is None or known.closed:
            known = self._connections[name] = self._sides.named(name).connect()
        return known

    def read_side_rows(self) -> SideRows:
        """Query the state rows of both sides."""
        rows = read_side_rows({"legacy": self.session("legacy"), "primary": self.session("primary")})
        return SideRows(rows["legacy"], rows["primary"])

    def run_cycle(self, source: SideName, *, verify: bool = False, dry_run: bool = False) -> CycleResult:
        """Run one apply cycle from `source` to the other side and return its result.

        See `run_apply_cycle` for the options and errors.
        """
        sessions = self.session(source), self.session(other_side(source))
        result = run_apply_cycle(*sessions, self.tables(source), verify=verify, dry_run=dry_run)
        self._deleted_entries += 0 if dry_run else result.entries
        return result

    def lock_target(self, source: SideName) -> TargetLock:
        """Begin an apply cycle, with verification, whose further steps the caller runs itself.

        See `apply_cycle.lock_target` for the errors.
        """
        sessions = self.session(source), self.session(other_side(source))
        return lock_target(*sessions, self.tables(source), verify=True)

    def tables(self, source: SideName) -> list[TableInfo]:
        """Return the tables of the transfer as defined on that side, parents before children."""
        connection = self.session(source)
        if self._tables_read_from is not connection:
            self._tables, self._tables_read_from = transfer_tables(connection), connection
        return self._tables

    def require_complete_copy(self, source: SideName) -> None:
        """Raise ConflictError if the initial copy, from legacy to primary, is incomplete."""
        if source == "primary":
            return
        copied = set(copied_tables(self.session("primary")))
        missing = [
            table.name for table in transfer_tables(self.session("legacy")) if table.name not in copied
        ]
        if missing:
            raise ConflictError(
                f"{len(missing)} tables are not copied yet ({', '.join(missing[:3])}, …):"
                " run `frontdesk transfer copy`."
            )

    def vacuum_log_if_due(self, source: SideName) -> None:
        """Vacuum the source's change log once per VACUUM_AFTER_ENTRIES deletions. Writers are not blocked."""
        if self._deleted_entries >= VACUUM_AFTER_ENTRIES:
            self._deleted_entries = 0
            self.session(source).execute(f"VACUUM (TRUNCATE false) {SCHEMA}.marks")

    def set_deadline(self, deadline: float | None) -> None:
        """Abort waiting for servers at `deadline`, a value of `time.monotonic`; None removes the limit."""
        for connection in self._connections.values():
            connection.deadline = deadline

    def close(self) -> None:
        """Close both sessions."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["DirectionChangedError", "NotStartedError", "SessionPair", "SideRows"]
