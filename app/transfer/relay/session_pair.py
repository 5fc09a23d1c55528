"""One session on each side, and which side is followed by which."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.errors import ConflictError, InvalidInputError
from app.transfer.protocol.endpoints import SideName, Sides, TransferConnection
from app.transfer.protocol.fencing import Row
from app.transfer.protocol.stages import Stage, look_at, other_than, stage_of
from app.transfer.protocol.status import copied_tables
from app.transfer.protocol.tables import SCHEMA, Table, moved_tables
from app.transfer.relay.apply_cycle import MovedOnError, Replay, Round, replay

VACUUM_AFTER = 50_000  # marks deleted: the log is read as a whole, with what is dead in it


class NotStartedError(InvalidInputError):
    """No move has been started: `frontdesk transfer start`."""


@dataclass(frozen=True)
class Rows:
    """The state of both sides as it was a moment ago."""

    legacy: Row | None
    primary: Row | None

    @property
    def stage(self) -> Stage:
        return stage_of(self.legacy, self.primary)

    def of(self, name: SideName) -> Row:
        """The row of one side. Raises NotStartedError where it has none."""
        row = self.legacy if name == "legacy" else self.primary
        if row is None:
            raise NotStartedError
        return row

    @property
    def ahead_and_behind(self) -> tuple[Row, Row]:
        """By their epochs. Raises NotStartedError."""
        ahead, behind = sorted((self.of("legacy"), self.of("primary")), key=lambda row: -row.epoch)
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


class Link:
    """Sessions on both sides, made when they are needed, and made again when they were lost."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._connections: dict[SideName, TransferConnection] = {}
        self._tables: list[Table] = []
        self._known_from: TransferConnection | None = None
        self._forgotten = 0

    def to(self, name: SideName) -> TransferConnection:
        """The session on that side. Raises UnavailableError."""
        known = self._connections.get(name)
        if known is None or known.closed:
            known = self._connections[name] = self._sides.named(name).connect()
        return known

    def look(self) -> Rows:
        """Ask both sides."""
        rows = look_at({"legacy": self.to("legacy"), "primary": self.to("primary")})
        return Rows(rows["legacy"], rows["primary"])

    def round(self, source: SideName, *, verify: bool = False, dry_run: bool = False) -> Round:
        """Bring the other side up to date with `source`. Raises MovedOnError, psycopg's errors."""
        sessions = self.to(source), self.to(other_than(source))
        result = replay(*sessions, self.tables(source), verify=verify, dry_run=dry_run)
        self._forgotten += 0 if dry_run else result.marks
        return result

    def replay(self, source: SideName) -> Replay:
        """The same, verified, step by step."""
        return Replay(self.to(source), self.to(other_than(source)), self.tables(source), verify=True)

    def tables(self, source: SideName) -> list[Table]:
        """Those of the move, parents first, as that side has them."""
        connection = self.to(source)
        if self._known_from is not connection:
            self._tables, self._known_from = moved_tables(connection), connection
        return self._tables

    def refuse_incomplete_copy(self, source: SideName) -> None:
        """Raise ConflictError where the first copy, from legacy to primary, has not finished."""
        if source == "primary":
            return
        copied = set(copied_tables(self.to("primary")))
        missing = [table.name for table in moved_tables(self.to("legacy")) if table.name not in copied]
        if missing:
            raise ConflictError(
                f"{len(missing)} tables are not copied yet ({', '.join(missing[:3])}, …):"
                " run `frontdesk transfer copy`."
            )

    def tidy(self, source: SideName) -> None:
        """Clear the log of its dead rows, now and then; writers do not notice."""
        if self._forgotten >= VACUUM_AFTER:
            self._forgotten = 0
            self.to(source).execute(f"VACUUM (TRUNCATE false) {SCHEMA}.marks")

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


__all__ = ["Link", "MovedOnError", "NotStartedError", "Rows"]
