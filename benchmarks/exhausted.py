"""The web application with an exhausted pool, for gunicorn: `benchmarks.exhausted:app`."""

from app import create_app

app = create_app()
_taken: list[object] = []


@app.before_request
def exhaust() -> None:
    """Acquire all connections at the first request, that is, after the fork, in the serving process."""
    pool = app.extensions["desk"].database.pool
    while len(_taken) < pool.max_size:
        _taken.append(pool.getconn())
