"""One tree of errors. What a driver raises becomes one of ours here, by SQLSTATE, and nowhere else.

Messages are safe to show and to log: they never carry a value that a caller passed in.
"""

from collections.abc import Mapping

import psycopg
import psycopg_pool
import sqlalchemy.exc


class FrontdeskError(Exception):
    """Something went wrong inside Frontdesk; look for the cause in the log."""

    code = "internal"
    retryable = False

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        super().__init__(self.message)


class ConfigurationError(FrontdeskError):
    """The configuration is wrong."""

    code = "invalid"


class InvalidInputError(FrontdeskError):
    """The input is not valid."""

    code = "invalid"

    def __init__(self, message: str | None = None, fields: Mapping[str, str] | None = None) -> None:
        """`fields` names each wrong field and says why."""
        self.fields = dict(fields or {})
        if message is None and self.fields:
            message = "; ".join(f"{field}: {reason}" for field, reason in self.fields.items())
        super().__init__(message)


class UnknownCompanyError(FrontdeskError):
    """This company is not known here; upsert_company (or an import) makes it known."""

    code = "unknown_company"


class NotFoundError(FrontdeskError):
    """There is no such row to change."""

    code = "not_found"


class SlotTakenError(FrontdeskError):
    """That time is already taken for this member of staff."""

    code = "slot_taken"


class ConflictError(FrontdeskError):
    """Another change got in the way."""

    code = "conflict"


class RetryableConflictError(ConflictError):
    """Another transaction got in the way; the same call can succeed when it is made again."""

    retryable = True


class UnavailableError(FrontdeskError):
    """The database cannot be reached."""

    code = "unavailable"
    retryable = True


class NoConnectionError(UnavailableError):
    """No connection to the database was free or could be made in time; nothing was sent to it."""


class NoSpaceError(UnavailableError):
    """The database server has no space left on its disk."""


class ReadOnlyError(UnavailableError):
    """The database takes no writes now: it is a standby, or was made read-only."""


class PermanentlyUnavailableError(UnavailableError):
    """The database refused the connection; check user, password and database name in DATABASE_URL."""

    retryable = False


class DeadlineError(FrontdeskError):
    """The database took too long and the statement was given up."""

    code = "timeout"
    retryable = True


class FencedError(FrontdeskError):
    """The database is being moved; run the unit of work again."""

    code = "fenced"
    retryable = True


class ClientDeadlineExceeded(psycopg.OperationalError):
    """The server did not answer within POSTGRES_QUERY_TIMEOUT; the connection is closed."""


class SideLostError(ClientDeadlineExceeded):
    """One of the two databases of a move does not answer any more; the message says which, and no more."""


DRIVER_ERRORS = (sqlalchemy.exc.SQLAlchemyError, psycopg.Error)

_BY_SQLSTATE: dict[str, type[FrontdeskError]] = {
    "23P01": SlotTakenError,
    "40001": RetryableConflictError,
    "40P01": RetryableConflictError,
    "55P03": DeadlineError,  # lock_timeout
    "57014": DeadlineError,  # statement_timeout
    "25P03": DeadlineError,  # idle_in_transaction_session_timeout
    "25P04": DeadlineError,  # transaction_timeout
    "28000": PermanentlyUnavailableError,
    "28P01": PermanentlyUnavailableError,
    "3D000": PermanentlyUnavailableError,
    "53100": NoSpaceError,
    "57P01": UnavailableError,
    "57P02": UnavailableError,
    "57P03": UnavailableError,
    "57P05": UnavailableError,
    "25006": ReadOnlyError,
    "FD001": FencedError,  # the move's own triggers
}
_BY_SQLSTATE_CLASS: dict[str, type[FrontdeskError]] = {
    "08": UnavailableError,
    "53": UnavailableError,
    "58": UnavailableError,
}


def to_frontdesk_error(error: BaseException) -> FrontdeskError:
    """Translate an error of SQLAlchemy or psycopg into ours, by its SQLSTATE."""
    if isinstance(error, FrontdeskError):
        return error
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, psycopg_pool.PoolTimeout):
        return NoConnectionError(
            "No connection to the database within POSTGRES_CONNECTION_TIMEOUT: "
            "the pool is exhausted or the database is down."
        )
    if isinstance(error, SideLostError):
        return UnavailableError(str(error))
    if isinstance(error, ClientDeadlineExceeded):
        return DeadlineError()
    if not isinstance(error, psycopg.Error):
        return FrontdeskError()
    state = error.sqlstate
    if state is None:
        # Without a SQLSTATE the server never answered: the connection was refused or lost.
        return UnavailableError() if isinstance(error, psycopg.OperationalError) else FrontdeskError()
    if state == "23503":
        return _foreign_key(error)
    if state == "23505":
        # Every write here is an upsert, so a duplicate key is a race: a second run sees the other's row.
        return RetryableConflictError(f"Another row has this key already ({error.diag.constraint_name}).")
    if state == "42P01":
        return FrontdeskError("A table is missing: run `alembic upgrade head`.")
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]()
    # A constraint, a value out of range, a trigger that raises, a value too long for an index.
    if state[:2] in ("22", "23", "P0") or state == "54000":
        what = error.diag.constraint_name or error.diag.column_name or "a value"
        return InvalidInputError(f"The database refused {what} (SQLSTATE {state}).")
    if state[:2] in _BY_SQLSTATE_CLASS:
        return _BY_SQLSTATE_CLASS[state[:2]]()
    return FrontdeskError(f"Database error, SQLSTATE {state}.")


def _foreign_key(error: psycopg.Error) -> FrontdeskError:
    constraint = error.diag.constraint_name or ""
    if constraint.endswith("_companies"):
        return UnknownCompanyError()
    return ConflictError(f"A row that this one belongs to is missing or still in use ({constraint}).")
