"""The limits of an API, kept in the database: they hold for the address that all processes share."""

import threading
from dataclasses import dataclass

from psycopg import sql

from app.database.database import Database
from app.database.live_database import AnyDatabase
from app.errors import DRIVER_ERRORS, to_frontdesk_error


@dataclass(frozen=True)
class RateLimit:
    """At most `count` requests in any period of so many seconds."""

    count: int
    seconds: float


# YClients allows 5 requests a second and 200 a minute. What is sent on time arrives a little earlier or
# later than the others, more so on a busy machine, so a part of each period is left free. That costs a long
# sync nothing: the minute decides how long it takes.
YCLIENTS_LIMITS = (RateLimit(5, 1.4), RateLimit(200, 61.0))

# A reservation this far ahead was not made by requests that wait: the server's clock was set back, or
# another server has taken over.
MAX_RESERVATION_AHEAD = "5 minutes"

# Nobody waits for the disk: what a crash of the server forgets is the last fraction of a second.
_RESERVE_SQL = """
    INSERT INTO request_budgets AS b (api, granted)
    SELECT %(api)s, ARRAY[clock_timestamp()] FROM set_config('synchronous_commit', 'off', true)
    ON CONFLICT (api) DO UPDATE SET granted = CASE
        WHEN b.granted[1] > clock_timestamp() + {far_ahead}::interval THEN ARRAY[clock_timestamp()]
        ELSE (ARRAY[GREATEST(clock_timestamp(), b.paused_until, {ends})] || b.granted)[1:{remembered}]
    END
    RETURNING extract(epoch FROM granted[1] - clock_timestamp())::float
"""
_PAUSE = """
    UPDATE request_budgets
    SET paused_until = GREATEST(paused_until, clock_timestamp() + make_interval(secs => %(seconds)s))
    WHERE api = %(api)s
"""


class RateLimiter:
    """Turns for requests to one API, in the order in which they are asked for.

    Each turn is one statement that notes when the request may be sent, by the server's clock. Nothing is
    held while the caller waits for it, so a process that is killed blocks nobody.
    """

    def __init__(
        self, database: AnyDatabase, api: str, limits: tuple[RateLimit, ...] = YCLIENTS_LIMITS
    ) -> None:
        """`api` is the host and port whose limits these are."""
        self._database = database
        self._api = api
        self._one_at_a_time = threading.Lock()  # threads that wait for a page leave the pool to others
        ends = [
            sql.SQL("b.granted[{}] + make_interval(secs => {})").format(
                sql.Literal(limit.count), sql.Literal(limit.seconds)
            )
            for limit in limits
        ]
        self._reserve_sql = sql.SQL(_RESERVE_SQL).format(
            far_ahead=sql.Literal(MAX_RESERVATION_AHEAD),
            ends=sql.SQL(", ").join(ends),
            remembered=sql.Literal(max(limit.count for limit in limits)),
        )

    def reserve(self) -> float:
        """Reserve the next turn; return the seconds until it comes. Raises FrontdeskError."""

        def take(database: Database) -> tuple[float] | None:
            with database.autocommit() as connection:
                return connection.execute(self._reserve_sql, {"api": self._api}).fetchone()

        try:
            with self._one_at_a_time:
                turn = self._database.run_on_live(take)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error
        assert turn is not None, "an upsert without a condition returns its row"  # noqa: S101
        return max(0.0, float(turn[0]))

    def pause(self, seconds: float) -> None:
        """Let no process send anything for so long: the API has asked for it. Raises FrontdeskError."""

        def pause(database: Database) -> None:
            with database.autocommit() as connection:
                connection.execute(_PAUSE, {"api": self._api, "seconds": seconds})

        try:
            self._database.run_on_live(pause)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error


def estimate_seconds(requests: int, limits: tuple[RateLimit, ...] = YCLIENTS_LIMITS) -> float:
    """Seconds until the last of so many requests may be sent, when nobody else sends any."""
    turns: list[float] = []
    for number in range(requests):
        ends = [turns[number - each.count] + each.seconds for each in limits if number >= each.count]
        turns.append(max(ends, default=0.0))
    return turns[-1] if turns else 0.0
