"""Figures of the whole service, for Prometheus and as JSON."""

from dataclasses import asdict
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client.exposition import choose_encoder

from app.config import Settings
from app.observability import slow_queries
from app.observability.metric_readings import read_query_metrics, registry
from app.web.serving.tokens import has_token


def metrics_routes(settings: Settings) -> Blueprint:
    """`/metrics` and `/health/database/metrics`. Where HEALTH_TOKEN is set, both need it."""
    routes = Blueprint("metrics", __name__)

    def may_see() -> bool:
        return settings.health_token is None or has_token(settings.health_token)

    @routes.get("/metrics")
    def prometheus() -> ResponseReturnValue:
        """In Prometheus's text format, or OpenMetrics where it is asked for."""
        if not may_see():
            error = {"code": "unauthorized", "message": "This needs HEALTH_TOKEN as a Bearer token."}
            return jsonify(error=error), 401, {"WWW-Authenticate": 'Bearer realm="frontdesk"'}
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # it asks for a version that is no number
            encode, content_type = choose_encoder("")
        return Response(encode(registry()), content_type=content_type)

    @routes.get("/health/database/metrics")
    def queries() -> ResponseReturnValue:
        """Queries by kind, percentiles and the last slow ones; times in milliseconds."""
        if not may_see():
            return jsonify(status="ok")
        found = read_query_metrics()
        document = {
            "total": found.total,
            "by_type": {
                kind: {"count": each.count, "avg_ms": _milliseconds(each.total_seconds / each.count)}
                for kind, each in found.kinds.items()
            },
            "percentiles": {name: _milliseconds(value) for name, value in found.percentiles.items()},
            "slow_queries": [asdict(query) for query in slow_queries.recent()],
        }
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return jsonify(timestamp=now, metrics=document)

    return routes


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
