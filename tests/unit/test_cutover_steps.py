"""The steps of a cutover can only run in their order, and answers are read by name."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from app.transfer.cutover import cutover
from app.transfer.protocol import fencing
from app.transfer.protocol.fencing import Closing, HandedOver, SideRow, TakenOverError
from app.transfer.protocol.pipeline import StatementBatch, single_value
from app.transfer.relay import apply_cycle
from app.transfer.relay.apply_cycle import AppliedRows, DurableSource, FetchedRows, SourceSnapshot, TargetLock
from app.transfer.relay.session_pair import SessionPair

APP = Path(__file__).parents[2] / "app"

# The only functions that create the value of a step.
CREATORS = {
    "TargetLock": {"lock_target"},
    "SourceQueries": {"add_source_queries"},
    "SourceSnapshot": {"check"},
    "DurableSource": {"closed_by", "commit_source"},
    "FetchedRows": {"fetch"},
    "AppliedRows": {"apply"},
    "Closing": {"close"},
    "_ClosedSource": {"_close"},
    "_PausedSource": {"_check_closed"},
    "_DrainedSource": {"_drain"},
    "HandedOver": {"hand_over"},
}
# Each step of a write pause, and the step whose value it needs.
STEPS = [("_check_closed", "_close"), ("_drain", "_check_closed"), ("_hand_over", "_drain")]


class FakeConnection:
    """A connection that records statements."""

    def __init__(self) -> None:
        self.executed: list[Any] = []

    def execute(self, statement: Any) -> Any:
        self.executed.append(statement)
        raise AssertionError("no statement may be executed")


class FakeSessions(SessionPair):
    """Sessions on both sides with one FakeConnection."""

    def __init__(self) -> None:
        self.connection = FakeConnection()

    def session(self, name: str) -> Any:
        return self.connection


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
def snapshot(sessions: FakeSessions) -> SourceSnapshot:
    """A snapshot of a source that is open at epoch 1."""
    connection: Any = sessions.connection
    lock = TargetLock(connection, connection, [], True, 1, [], 0.0)
    return SourceSnapshot(lock, SideRow("legacy", "open", 1, 0), [])


def test_only_the_step_itself_creates_its_value() -> None:
    creators = defaultdict(set)
    for path in APP.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                        if name in CREATORS:
                            creators[name].add(function.name)
    assert creators == CREATORS


@pytest.mark.parametrize(("step", "before"), STEPS)
def test_a_step_takes_the_value_that_the_step_before_returns(step: str, before: str) -> None:
    change = cutover._LiveSideChange
    taken = get_type_hints(getattr(change, step))
    returned = get_type_hints(getattr(change, before))["return"]
    assert returned in taken.values()
    assert returned is not taken["return"]


def test_the_target_opens_with_the_value_of_the_hand_over() -> None:
    assert get_type_hints(fencing.open_)["other"] is get_type_hints(fencing.hand_over)["return"] is HandedOver
    assert get_type_hints(fencing.hand_over)["closing"] is get_type_hints(fencing.close)["return"] is Closing


@pytest.mark.parametrize("step", ["_drain", "_hand_over"])
def test_a_step_that_runs_too_early_executes_no_statement(
    sessions: FakeSessions, snapshot: SourceSnapshot, step: str
) -> None:
    change: Any = cutover._LiveSideChange(sessions, "primary", 1.0, False, lambda step: None)
    batch = StatementBatch()
    queries = snapshot.lock.add_source_queries(batch)
    closed = cutover._ClosedSource(Closing(1, 1), queries, [], batch.add_query("SELECT", list))
    with pytest.raises(AttributeError):
        getattr(change, step)(closed)
    assert sessions.connection.executed == []


def test_rows_are_not_applied_before_the_source_is_durable(snapshot: SourceSnapshot) -> None:
    fetched: Any = FetchedRows(snapshot)
    with pytest.raises(TypeError):
        fetched.apply()


def test_rows_are_not_applied_with_the_proof_of_another_snapshot(
    sessions: FakeSessions, snapshot: SourceSnapshot
) -> None:
    earlier = SourceSnapshot(snapshot.lock, snapshot.side_row, [])
    with pytest.raises(ValueError, match="another snapshot"):
        FetchedRows(snapshot).apply(DurableSource(earlier))
    assert sessions.connection.executed == []


@pytest.mark.parametrize("value", [TargetLock, apply_cycle.SourceQueries, SourceSnapshot, FetchedRows])
def test_log_entries_are_not_deleted_before_rows_are_applied(value: type) -> None:
    assert not hasattr(value, "completion_statements")
    assert hasattr(AppliedRows, "completion_statements")


@pytest.mark.parametrize("state", ["open", "closing"])
def test_a_side_that_has_not_handed_over_is_no_proof_of_it(state: Any) -> None:
    with pytest.raises(TakenOverError):
        HandedOver.of(SideRow("legacy", state, 1, 1))


@pytest.mark.parametrize(("state", "attempt"), [("open", 2), ("closing", 1), ("closing", 3)])
def test_a_source_that_another_closing_has_closed_is_not_durable(
    snapshot: SourceSnapshot, state: Any, attempt: int
) -> None:
    other = SourceSnapshot(snapshot.lock, SideRow("legacy", state, 1, attempt), [])
    assert other.closed_by(Closing(1, 2)) is None


def test_an_answer_cannot_be_read_before_its_batch_is_executed() -> None:
    batch = StatementBatch("BEGIN")
    answer = batch.add_query("SELECT 1", single_value)
    with pytest.raises(RuntimeError, match="before its batch"):
        answer.read()


class Result:
    """The result of one statement, as psycopg returns it."""

    def __init__(self, rows: list[Any] | None, rowcount: int) -> None:
        self.description, self.rowcount = rows, rowcount
        self._rows = rows

    def fetchall(self) -> Any:
        return self._rows


class AnsweringConnection:
    """A connection that returns prepared results."""

    def __init__(self, *results: Result) -> None:
        self._results = results

    def execute(self, statement: Any) -> Any:
        return self

    def results(self) -> Any:
        return iter(self._results)


def test_answers_do_not_depend_on_the_position_of_their_statement() -> None:
    connection: Any = AnsweringConnection(Result(None, -1), Result(None, 7), Result([(3,)], 1))
    batch = StatementBatch("BEGIN")
    written = batch.add_write("DELETE FROM t")
    value = batch.add_query("SELECT 3", single_value)
    outer = StatementBatch()
    outer.extend(batch)
    outer.execute(connection)
    assert (written.read(), value.read()) == (7, 3)


def test_a_batch_with_another_number_of_answers_is_an_error() -> None:
    connection: Any = AnsweringConnection(Result([(1,)], 1), Result([(2,)], 1))
    batch = StatementBatch("SELECT 1; SELECT 2")
    with pytest.raises(ValueError, match=r"shorter|longer"):
        batch.execute(connection)
