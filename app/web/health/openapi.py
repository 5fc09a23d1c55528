"""What the health API answers, as OpenAPI: `/openapi.json`."""

from importlib.metadata import version
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.schemas.types import MAX_ID
from app.web.health.documents import DRAFT, PLAIN

Schema = dict[str, Any]

HTML = "text/html"
TEXT: Schema = {"type": "string"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": ["number", "null"], "minimum": 0}
DURATION: Schema = {"type": ["number", "null"], "minimum": 0, "description": "Milliseconds."}


def openapi_routes() -> Blueprint:
    """The route; the description tells nothing about the installation, so anyone may read it."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def openapi() -> ResponseReturnValue:
        """The description."""
        return jsonify(_description())

    return routes


def _description() -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Frontdesk: health",
            "version": version("frontdesk"),
            "description": (
                "What orchestrators, Prometheus and operators ask. Where HEALTH_TOKEN is set, callers without"
                " it get the status alone. No answer takes longer than a second, and none is to be stored."
            ),
        },
        # With none of them, too: then there is the status alone, or everything where no token is set.
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": {
            "/health": _health("The process alone; never asks the database.", _process(), fails=False),
            "/health/live": _health("Whether the process answers.", _status("ok"), fails=False),
            "/health/ready": _health(
                "Whether the database is reachable and its schema is the one of this code.",
                _status("ok", "unavailable", timestamp=MOMENT, code=TEXT),
            ),
            "/health/database": _health("The pool, and whether the database answers.", _database()),
            "/health/database/metrics": _plain("Queries by kind, percentiles, slow queries.", _metrics()),
            "/health/whatsapp": _health(
                "WhatsApp sessions: of all salons, or of one.", _whatsapp(), _company(), {"400", "404"}
            ),
            "/health/transfer": _health(
                "The move to another database: stage, lag, divergences, last verification.", _transfer()
            ),
            "/metrics": _get(
                "Figures for Prometheus.",
                {
                    "200": _answer("In Prometheus's text format.", {"text/plain": {"schema": TEXT}}),
                    "401": _challenge(PLAIN),
                },
            ),
            "/status": _get(
                "The status page, for people.",
                {
                    "200": _answer("The page.", {"text/html": {"schema": TEXT}}),
                    "401": _challenge("text/html"),
                },
            ),
            "/openapi.json": _plain("This description.", {"type": "object", "required": ["openapi"]}),
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The token as the password."},
            },
            "schemas": {"Draft": _draft()},
        },
    }


def _get(summary: str, responses: Schema, parameters: list[Schema] | None = None) -> Schema:
    operation: Schema = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _answer(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def _plain(summary: str, schema: Schema) -> Schema:
    return _get(summary, {"200": _answer("The answer.", {PLAIN: {"schema": schema}})})


def _health(
    summary: str,
    schema: Schema,
    parameters: list[Schema] | None = None,
    mistakes: set[str] | None = None,
    fails: bool = True,
) -> Schema:
    """A check: in our own form, or in the draft's for who accepts that."""
    content = {PLAIN: {"schema": schema}, DRAFT: {"schema": {"$ref": "#/components/schemas/Draft"}}}
    responses = {"200": _answer("Well, or well enough.", content)}
    for code in sorted(mistakes or ()):
        responses[code] = _answer("The question is wrong.", content)
    if fails:
        responses["503"] = _answer("Not well.", content)
    return _get(summary, responses, parameters)


def _challenge(media_type: str) -> Schema:
    headers = {"WWW-Authenticate": {"required": True, "schema": TEXT}}
    return _answer("HEALTH_TOKEN is needed.", {media_type: {}}) | {"headers": headers}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _all(**properties: Schema) -> Schema:
    return _object([*properties], **properties)


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _map_of(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _status(*words: str, **details: Schema) -> Schema:
    return _object(["status"], status={"enum": [*words]}, **details)


def _process() -> Schema:
    return _all(status={"const": "ok"}, uptime=COUNT | {"description": "Seconds."}, timestamp=MOMENT)


def _database() -> Schema:
    words = ["healthy", "at_capacity", "unreachable"]
    details = _all(
        timestamp=MOMENT,
        database=_all(
            enabled={"type": "boolean"},
            backend={"const": "postgresql"},
            connections=_all(total=COUNT, idle=COUNT, waiting=COUNT, max=COUNT),
            utilization=_all(percent=COUNT, status={"enum": ["normal", "high"]}),
            health=_all(status={"enum": words}, waiting_requests=COUNT),
        ),
    )
    return {"anyOf": [details, _status(*words)]}


def _metrics() -> Schema:
    slow = _all(
        text=TEXT,
        kind=TEXT,
        duration_ms=DURATION,
        rows={"type": ["integer", "null"]},
        at=MOMENT,
        company_id={"type": ["integer", "null"]},
        operation={"type": ["string", "null"]},
    )
    details = _all(
        timestamp=MOMENT,
        metrics=_all(
            total=COUNT,
            by_type=_map_of(_all(count=COUNT, avg_ms=DURATION)),
            percentiles=_all(p50=DURATION, p95=DURATION, p99=DURATION),
            slow_queries=_list_of(slow),
        ),
    )
    return {"anyOf": [details, _status("ok")]}


def _whatsapp() -> Schema:
    return _status(
        "healthy",
        "warning",
        "critical",
        "unavailable",
        "unknown",
        code=TEXT,
        timestamp=MOMENT,
        company_id={"type": "integer"},
        auth_records=COUNT,
        total_keys=COUNT,
        expired_keys=COUNT,
        thresholds=_all(warning=COUNT, critical=COUNT),
        last_check=MOMENT,
        last_write={"type": ["string", "null"], "format": "date-time"},
        keys_by_type=_map_of(_all(total=COUNT, expired=COUNT)),
        salons=_map_of(COUNT),
        attention=_list_of({"type": "object"}),
        worker={"type": ["string", "null"]},
        reasons=_list_of(TEXT),
        recommendation=TEXT,
    )


def _transfer() -> Schema:
    return _status(
        "healthy",
        "warning",
        "critical",
        "unavailable",
        "not_configured",
        code=TEXT,
        timestamp=MOMENT,
        stage=TEXT,
        live={"enum": ["legacy", "primary", None]},
        lag=_or_null(_all(keys=_or_null(COUNT), seconds=SECONDS)),
        replay_seconds=SECONDS,
        divergences=_or_null(
            _all(compared=COUNT, differed=COUNT, percent={"type": "number"}, window_seconds=COUNT)
        ),
        last_verification=_or_null(_all(at=MOMENT, equal={"type": "boolean"})),
        reasons=_list_of(TEXT),
        next=TEXT,
        last_check=MOMENT,
    )


def _company() -> list[Schema]:
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
    return [
        {"name": "company_id", "in": "query", "description": "A company's YClients id.", "schema": schema}
    ]


def _draft() -> Schema:
    check = _object(["status"], status={"enum": ["pass", "warn", "fail"]}, time=MOMENT)
    return _object(
        ["status", "serviceId"],
        status={"enum": ["pass", "warn", "fail"]},
        serviceId=TEXT,
        releaseId=TEXT,
        output=TEXT,
        checks=_map_of(_list_of(check)),
    ) | {"description": "draft-inadarei-api-health-check"}
