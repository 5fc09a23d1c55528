"""One session on each side, and which side is followed by which."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.errors import ConflictError, InvalidInputError
from app.transfer.protocol.endpoints import SideName, Sides, TransferConnection
from app.transfer.protocol.fencing import SideRow
from app.transfer.protocol.stages import Stage, other_side, read_side_rows, stage_of
from app.transfer.protocol.status import copied_tables
from app.transfer.protocol.tables import SCHEMA, TableInfo, transfer_tables
from app.transfer.relay.apply_cycle import ApplyCycle, CycleResult, DirectionChangedError, run_apply_cycle

VACUUM_AFTER_ENTRIES = 50_000  # marks deleted: the log is read as a whole, with what is dead in it


class NotStartedError(InvalidInputError):
    """No move has been started: `frontdesk transfer start`."""


@dataclass(frozen=True)
class SideRows:
    """The state of both sides as it was a moment ago."""

    legacy: SideRow | None
    primary: SideRow | None

    @property
    def stage(self) -> Stage:
        return stage_of(self.legacy, self.primary)

    def require(self, name: SideName) -> SideRow:
        """The row of one side. Raises NotStartedError where it has none."""
        row = self.legacy if name == "legacy" else self.primary
        if row is None:
            raise NotStartedError
        return row

    @property
    def ahead_and_behind(self) -> tuple[SideRow, SideRow]:
        """By their epochs. Raises NotStartedError."""
        ahead, behind = sorted((self.require("legacy"), self.require("primary")), key=lambda row: -row.epoch)
        return ahead, behind

    @property
    def source(self) -> SideName:
        """The side whose changes the other follows. Raises ConflictError where there is none."""
        if self.stage in (Stage.NOT_STARTED, Stage.STARTING):
            raise NotStartedError
        leading = [row.name for row in (self.legacy, self.primary) if row and row.state != "standby"]
        if len(leading) != 1:
            raise ConflictError("No side takes writes now: `frontdesk transfer status` says what to do.")
        return leading[0]


class SessionPair:
    """Sessions on both sides, made when they are needed, and made again when they were lost."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._connections: dict[SideName, TransferConnection] = {}
        self._tables: list[TableInfo] = []
        self._tables_read_from: TransferConnection | None = None
        self._deleted_entries = 0

    def session(self, name: SideName) -> TransferConnection:
        """The session on that side. Raises UnavailableError."""
        known = self._connections.get(name)
        if known is None or known.closed:
            known = self._connections[name] = self._sides.named(name).connect()
        return known

    def read_side_rows(self) -> SideRows:
        """Ask both sides."""
        rows = read_side_rows({"legacy": self.session("legacy"), "primary": self.session("primary")})
        return SideRows(rows["legacy"], rows["primary"])

    def run_cycle(self, source: SideName, *, verify: bool = False, dry_run: bool = False) -> CycleResult:
        """Bring the other side up to date with `source`. Raises MovedOnError, psycopg's errors."""
        sessions = self.session(source), self.session(other_side(source))
        result = run_apply_cycle(*sessions, self.tables(source), verify=verify, dry_run=dry_run)
        self._deleted_entries += 0 if dry_run else result.entries
        return result

    def new_verified_cycle(self, source: SideName) -> ApplyCycle:
        """The same, verified, step by step."""
        return ApplyCycle(
            self.session(source), self.session(other_side(source)), self.tables(source), verify=True
        )

    def tables(self, source: SideName) -> list[TableInfo]:
        """Those of the move, parents first, as that side has them."""
        connection = self.session(source)
        if self._tables_read_from is not connection:
            self._tables, self._tables_read_from = transfer_tables(connection), connection
        return self._tables

    def require_complete_copy(self, source: SideName) -> None:
        """Raise ConflictError where the first copy, from legacy to primary, has not finished."""
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
        """Clear the log of its dead rows, now and then; writers do not notice."""
        if self._deleted_entries >= VACUUM_AFTER_ENTRIES:
            self._deleted_entries = 0
            self.session(source).execute(f"VACUUM (TRUNCATE false) {SCHEMA}.marks")

    def set_deadline(self, deadline: float | None) -> None:
        """Give up whatever waits for a server at that time (of `time.monotonic`)."""
        for connection in self._connections.values():
            connection.deadline = deadline

    def close(self) -> None:
        """End both sessions."""
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
