"""Rate limits of an API, enforced across processes through the database."""

import threading
from dataclasses import dataclass

from psycopg import sql

from app.database.database import Database
from app.database.live_database import AnyDatabase
from app.errors import DRIVER_ERRORS, to_frontdesk_error


@dataclass(frozen=True)
class RateLimit:
    """At most `count` requests in any period of `seconds`."""

    count: int
    seconds: float


# YClients allows 5 requests per second and 200 per minute. Delays on the way vary, so the periods here are
# longer. The longer second does not slow down a long sync, because the limit per minute decides its duration.
YCLIENTS_LIMITS = (RateLimit(5, 1.4), RateLimit(200, 61.0))

# A reservation this far in the future shows that the server's clock was set back, or that another server has
# taken over.
MAX_RESERVATION_AHEAD = "5 minutes"

# Commits are asynchronous: a crash of the server loses only the reservations of the last fraction of a
# second.
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
    """Reservations of times at which requests to one API may be sent, in the order of the calls.

    Each reservation is one statement that stores the time, by the server's clock. No lock is held while the
    caller waits for it, so a killed process does not block others.
    """

    def __init__(
        self, database: AnyDatabase, api: str, limits: tuple[RateLimit, ...] = YCLIENTS_LIMITS
    ) -> None:
        """Limit the requests to `api`, a host with port."""
        self._database = database
        self._api = api
        self._one_at_a_time = threading.Lock()  # so that waiting threads use only one connection of the pool
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
        """Reserve the time of the next request; return the seconds until then. Raises FrontdeskError."""

        def insert(database: Database) -> float:
            with database.autocommit() as connection:
                ((seconds,),) = connection.execute(self._reserve_sql, {"api": self._api})
                return max(0.0, float(seconds))

        try:
            with self._one_at_a_time:
                return self._database.run_on_live(insert)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error

    def pause(self, seconds: float) -> None:
        """Pause the requests of all processes for `seconds`. Raises FrontdeskError."""

        def pause(database: Database) -> None:
            with database.autocommit() as connection:
                connection.execute(_PAUSE, {"api": self._api, "seconds": seconds})

        try:
            self._database.run_on_live(pause)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error


def estimate_seconds(requests: int, limits: tuple[RateLimit, ...] = YCLIENTS_LIMITS) -> float:
    """Return the seconds until the last of `requests` may be sent, without requests of other processes."""
    times: list[float] = []
    for number in range(requests):
        ends = [times[number - limit.count] + limit.seconds for limit in limits if number >= limit.count]
        times.append(max(ends, default=0.0))
    return times[-1] if times else 0.0
