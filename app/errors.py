"""All errors of Frontdesk, and the translation of database errors into them by SQLSTATE.

Messages are safe to show and to log: they never contain a value that a caller passed.
"""

from collections.abc import Mapping

import psycopg
import psycopg_pool
import sqlalchemy.exc


class FrontdeskError(Exception):
    """An internal error of Frontdesk. The log contains the cause."""

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
        """`fields` maps the name of each invalid field to the reason."""
        self.fields = dict(fields or {})
        if message is None and self.fields:
            message = "; ".join(f"{field}: {reason}" for field, reason in self.fields.items())
        super().__init__(message)


class UnknownCompanyError(FrontdeskError):
    """The company is unknown. Store it first with upsert_company or an import."""

    code = "unknown_company"


class NotFoundError(FrontdeskError):
    """The row to change does not exist."""

    code = "not_found"


class SlotTakenError(FrontdeskError):
    """The time is already taken for this member of staff."""

    code = "slot_taken"


class ConflictError(FrontdeskError):
    """The change conflicts with another change."""

    code = "conflict"


class RetryableConflictError(ConflictError):
    """The change conflicts with a concurrent transaction. A retry of the call can succeed."""

    retryable = True


class UnavailableError(FrontdeskError):
    """The database cannot be reached."""

    code = "unavailable"
    retryable = True


class NoConnectionError(UnavailableError):
    """No database connection became available in time. Nothing was sent to the database."""


class NoSpaceError(UnavailableError):
    """The database server has no space left on its disk."""


class ReadOnlyError(UnavailableError):
    """The database is read-only at the moment, for example because it is a standby."""


class PermanentlyUnavailableError(UnavailableError):
    """The database refused the connection; check user, password and database name in DATABASE_URL."""

    retryable = False


class DeadlineError(FrontdeskError):
    """The statement was cancelled because the database took too long."""

    code = "timeout"
    retryable = True


class FencedError(FrontdeskError):
    """The database is being transferred. Run the unit of work again."""

    code = "fenced"
    retryable = True


class ClientDeadlineExceeded(psycopg.OperationalError):
    """The server did not respond within POSTGRES_QUERY_TIMEOUT. The connection is closed."""


class SideLostError(ClientDeadlineExceeded):
    """One of the two databases of a transfer does not respond. The message contains only which one."""


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
    "FD001": FencedError,  # raised by the triggers of the transfer
}
_BY_SQLSTATE_CLASS: dict[str, type[FrontdeskError]] = {
    "08": UnavailableError,
    "53": UnavailableError,
    "58": UnavailableError,
}


def to_frontdesk_error(error: BaseException) -> FrontdeskError:
    """Return the FrontdeskError for an error of SQLAlchemy or psycopg, selected by its SQLSTATE."""
    if isinstance(error, FrontdeskError):
        return error
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, psycopg_pool.PoolTimeout):
        return NoConnectionError(
            "No database connection within POSTGRES_CONNECTION_TIMEOUT: "
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
        # Without a SQLSTATE, the server did not respond: the connection was refused or lost.
        return UnavailableError() if isinstance(error, psycopg.OperationalError) else FrontdeskError()
    if state == "23503":
        return _foreign_key(error)
    if state == "23505":
        # All writes are upserts, so a duplicate key is the result of a race. A retry sees the other row.
        return RetryableConflictError(f"Another row already has this key ({error.diag.constraint_name}).")
    if state == "42P01":
        return FrontdeskError("A table is missing: run `alembic upgrade head`.")
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]()
    # 22: data exception, 23: constraint violation, P0: raised by PL/pgSQL, 54000: too long for an index.
    if state[:2] in ("22", "23", "P0") or state == "54000":
        name = error.diag.constraint_name or error.diag.column_name or "a value"
        return InvalidInputError(f"The database refused {name} (SQLSTATE {state}).")
    if state[:2] in _BY_SQLSTATE_CLASS:
        return _BY_SQLSTATE_CLASS[state[:2]]()
    return FrontdeskError(f"Database error, SQLSTATE {state}.")


def _foreign_key(error: psycopg.Error) -> FrontdeskError:
    constraint = error.diag.constraint_name or ""
    if constraint.endswith("_companies"):
        return UnknownCompanyError()
    return ConflictError(f"A referenced row is missing, or the row is still referenced ({constraint}).")
