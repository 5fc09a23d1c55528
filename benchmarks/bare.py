"""A Flask application with one minimal route, for comparison under gunicorn: `benchmarks.bare:app`."""

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

app = Flask(__name__, static_folder=None)


@app.get("/health")
def health() -> ResponseReturnValue:
    """Return the smallest JSON document."""
    return jsonify(status="ok")
