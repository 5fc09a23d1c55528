"""The service with every connection of its pool taken, for gunicorn: `benchmarks.exhausted:app`."""

from app import create_app

app = create_app()
_taken: list[object] = []


@app.before_request
def exhaust() -> None:
    """Take them all with the first request: after the fork, in the process that serves."""
    pool = app.extensions["desk"].database.pool
    while len(_taken) < pool.max_size:
        _taken.append(pool.getconn())
