"""Metrics of all workers of the service, for Prometheus and as JSON."""

from dataclasses import asdict
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client.exposition import choose_encoder

from app.config import Settings
from app.observability import slow_queries
from app.observability.metric_readings import read_query_metrics, registry
from app.text import format_utc
from app.web.serving.tokens import has_token


def metrics_routes(settings: Settings) -> Blueprint:
    """Return the routes `/metrics` and `/health/database/metrics`. Both require HEALTH_TOKEN if it is set."""
    routes = Blueprint("metrics", __name__)

    def may_see_details() -> bool:
        return settings.health_token is None or has_token(settings.health_token)

    @routes.get("/metrics")
    def prometheus() -> ResponseReturnValue:
        """Return all metrics in Prometheus's text format, or in OpenMetrics if the request accepts it."""
        if not may_see_details():
            error = {"code": "unauthorized", "message": "Send HEALTH_TOKEN as a Bearer token."}
            return jsonify(error=error), 401, {"WWW-Authenticate": 'Bearer realm="frontdesk"'}
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # the Accept header contains an invalid version
            encode, content_type = choose_encoder("")
        return Response(encode(registry()), content_type=content_type)

    @routes.get("/health/database/metrics")
    def queries() -> ResponseReturnValue:
        """Return queries by kind, percentiles of their durations and the last slow queries.

        Durations are in milliseconds. Without the token the document contains the status only.
        """
        if not may_see_details():
            return jsonify(status="ok")
        query_metrics = read_query_metrics()
        document = {
            "total": query_metrics.total,
            "by_type": {
                kind: {"count": totals.count, "avg_ms": _milliseconds(totals.total_seconds / totals.count)}
                for kind, totals in query_metrics.kinds.items()
            },
            "percentiles": {name: _milliseconds(value) for name, value in query_metrics.percentiles.items()},
            "slow_queries": [asdict(query) for query in slow_queries.recent()],
        }
        return jsonify(timestamp=format_utc(datetime.now(UTC)), metrics=document)

    return routes


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
