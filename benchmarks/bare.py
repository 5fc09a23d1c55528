"""A bare Flask route, for gunicorn: `benchmarks.bare:app`."""

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

app = Flask(__name__, static_folder=None)


@app.get("/health")
def health() -> ResponseReturnValue:
    """As little as there can be."""
    return jsonify(status="ok")
