"""OpenAPI description of the health API: `/openapi.json`."""

from importlib.metadata import version
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.schemas.types import MAX_ID
from app.web.health.documents import HEALTH_JSON_MEDIA_TYPE, JSON_MEDIA_TYPE

JsonSchema = dict[str, Any]

HTML = "text/html"
TEXT: JsonSchema = {"type": "string"}
DATE_TIME: JsonSchema = {"type": "string", "format": "date-time"}
COUNT: JsonSchema = {"type": "integer", "minimum": 0}
SECONDS_OR_NULL: JsonSchema = {"type": ["number", "null"], "minimum": 0}
MILLISECONDS_OR_NULL: JsonSchema = {"type": ["number", "null"], "minimum": 0, "description": "Milliseconds."}


def openapi_routes() -> Blueprint:
    """Return the route `/openapi.json`. It needs no token: it contains nothing about the installation."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def openapi() -> ResponseReturnValue:
        """Return the OpenAPI description."""
        return jsonify(_description())

    return routes


def _description() -> JsonSchema:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Frontdesk: health",
            "version": version("frontdesk"),
            "description": (
                "Health API for orchestrators, Prometheus and operators. If HEALTH_TOKEN is set, requests"
                " without it get the status only. Responses take at most a second and must not be cached."
            ),
        },
        # {}: requests without a token are valid. They get the status only, or everything if no token is set.
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": {
            "/health": _health("The process only; does not query the database.", _process(), fails=False),
            "/health/live": _health("Liveness: the process answers.", _status("ok"), fails=False),
            "/health/ready": _health(
                "Readiness: the database is reachable and its schema matches this release.",
                _status("ok", "unavailable", timestamp=DATE_TIME, code=TEXT),
            ),
            "/health/database": _health(
                "Connection pool of the process and reachability of the database.", _database()
            ),
            "/health/database/metrics": _plain(
                "Queries by kind, percentiles of durations, slow queries.", _metrics()
            ),
            "/health/whatsapp": _health(
                "WhatsApp sessions of all salons, or of one salon.", _whatsapp(), _company(), {"400", "404"}
            ),
            "/health/transfer": _health(
                "Transfer to another database: stage, lag, divergences, last verification.", _transfer()
            ),
            "/metrics": _get(
                "Metrics for Prometheus.",
                {
                    "200": _answer("Metrics in Prometheus's text format.", {"text/plain": {"schema": TEXT}}),
                    "401": _challenge(JSON_MEDIA_TYPE),
                },
            ),
            "/status": _get(
                "Status page for operators.",
                {
                    "200": _answer("The status page.", {"text/html": {"schema": TEXT}}),
                    "401": _challenge("text/html"),
                },
            ),
            "/openapi.json": _plain("This OpenAPI description.", {"type": "object", "required": ["openapi"]}),
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "HEALTH_TOKEN as the password; the user name is ignored.",
                },
            },
            "schemas": {"Draft": _draft()},
        },
    }


def _get(summary: str, responses: JsonSchema, parameters: list[JsonSchema] | None = None) -> JsonSchema:
    operation: JsonSchema = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _answer(description: str, content: JsonSchema) -> JsonSchema:
    return {"description": description, "content": content}


def _plain(summary: str, schema: JsonSchema) -> JsonSchema:
    return _get(summary, {"200": _answer("The document.", {JSON_MEDIA_TYPE: {"schema": schema}})})


def _health(
    summary: str,
    schema: JsonSchema,
    parameters: list[JsonSchema] | None = None,
    mistakes: set[str] | None = None,
    fails: bool = True,
) -> JsonSchema:
    """Return the operation of a health check, with both response formats.

    Args:
        summary: Summary of the operation.
        schema: Schema of Frontdesk's format.
        parameters: Query parameters.
        mistakes: Status codes for invalid requests, besides 200 and 503.
        fails: The check can answer 503.
    """
    content = {
        JSON_MEDIA_TYPE: {"schema": schema},
        HEALTH_JSON_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Draft"}},
    }
    responses = {"200": _answer("Healthy, or with warnings.", content)}
    for code in sorted(mistakes or ()):
        responses[code] = _answer("Invalid request or unknown company.", content)
    if fails:
        responses["503"] = _answer("Unhealthy or unavailable.", content)
    return _get(summary, responses, parameters)


def _challenge(media_type: str) -> JsonSchema:
    headers = {"WWW-Authenticate": {"required": True, "schema": TEXT}}
    return _answer("HEALTH_TOKEN is required.", {media_type: {}}) | {"headers": headers}


def _object(required: list[str], **properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "required": required, "properties": properties}


def _object_all_required(**properties: JsonSchema) -> JsonSchema:
    return _object([*properties], **properties)


def _or_null(schema: JsonSchema) -> JsonSchema:
    return {"anyOf": [schema, {"type": "null"}]}


def _map_of(schema: JsonSchema) -> JsonSchema:
    return {"type": "object", "additionalProperties": schema}


def _list_of(schema: JsonSchema) -> JsonSchema:
    return {"type": "array", "items": schema}


def _status(*words: str, **details: JsonSchema) -> JsonSchema:
    return _object(["status"], status={"enum": [*words]}, **details)


def _process() -> JsonSchema:
    return _object_all_required(
        status={"const": "ok"}, uptime=COUNT | {"description": "Seconds."}, timestamp=DATE_TIME
    )


def _database() -> JsonSchema:
    words = ["healthy", "at_capacity", "unreachable"]
    details = _object_all_required(
        timestamp=DATE_TIME,
        database=_object_all_required(
            enabled={"type": "boolean"},
            backend={"const": "postgresql"},
            connections=_object_all_required(total=COUNT, idle=COUNT, waiting=COUNT, max=COUNT),
            utilization=_object_all_required(percent=COUNT, status={"enum": ["normal", "high"]}),
            health=_object_all_required(status={"enum": words}, waiting_requests=COUNT),
        ),
    )
    return {"anyOf": [details, _status(*words)]}


def _metrics() -> JsonSchema:
    slow = _object_all_required(
        text=TEXT,
        kind=TEXT,
        duration_ms=MILLISECONDS_OR_NULL,
        rows={"type": ["integer", "null"]},
        at=DATE_TIME,
        company_id={"type": ["integer", "null"]},
        operation={"type": ["string", "null"]},
    )
    details = _object_all_required(
        timestamp=DATE_TIME,
        metrics=_object_all_required(
            total=COUNT,
            by_type=_map_of(_object_all_required(count=COUNT, avg_ms=MILLISECONDS_OR_NULL)),
            percentiles=_object_all_required(
                p50=MILLISECONDS_OR_NULL, p95=MILLISECONDS_OR_NULL, p99=MILLISECONDS_OR_NULL
            ),
            slow_queries=_list_of(slow),
        ),
    )
    return {"anyOf": [details, _status("ok")]}


def _whatsapp() -> JsonSchema:
    return _status(
        "healthy",
        "warning",
        "critical",
        "unavailable",
        "unknown",
        code=TEXT,
        timestamp=DATE_TIME,
        company_id={"type": "integer"},
        auth_records=COUNT,
        total_keys=COUNT,
        expired_keys=COUNT,
        thresholds=_object_all_required(warning=COUNT, critical=COUNT),
        last_check=DATE_TIME,
        last_write={"type": ["string", "null"], "format": "date-time"},
        keys_by_type=_map_of(_object_all_required(total=COUNT, expired=COUNT)),
        salons=_map_of(COUNT),
        attention=_list_of({"type": "object"}),
        worker={"type": ["string", "null"]},
        reasons=_list_of(TEXT),
        recommendation=TEXT,
    )


def _transfer() -> JsonSchema:
    return _status(
        "healthy",
        "warning",
        "critical",
        "unavailable",
        "not_configured",
        code=TEXT,
        timestamp=DATE_TIME,
        stage=TEXT,
        live={"enum": ["legacy", "primary", None]},
        lag=_or_null(_object_all_required(keys=_or_null(COUNT), seconds=SECONDS_OR_NULL)),
        replay_seconds=SECONDS_OR_NULL,
        divergences=_or_null(
            _object_all_required(
                compared=COUNT, differed=COUNT, percent={"type": "number"}, window_seconds=COUNT
            )
        ),
        last_verification=_or_null(_object_all_required(at=DATE_TIME, equal={"type": "boolean"})),
        reasons=_list_of(TEXT),
        next=TEXT,
        last_check=DATE_TIME,
    )


def _company() -> list[JsonSchema]:
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
    return [
        {"name": "company_id", "in": "query", "description": "YClients id of a company.", "schema": schema}
    ]


def _draft() -> JsonSchema:
    check = _object(["status"], status={"enum": ["pass", "warn", "fail"]}, time=DATE_TIME)
    return _object(
        ["status", "serviceId"],
        status={"enum": ["pass", "warn", "fail"]},
        serviceId=TEXT,
        releaseId=TEXT,
        output=TEXT,
        checks=_map_of(_list_of(check)),
    ) | {"description": "draft-inadarei-api-health-check"}
