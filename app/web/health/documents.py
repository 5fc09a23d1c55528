"""One answer of the health API in two dresses: ours, and `application/health+json` for who asks for it.

The latter follows draft-inadarei-api-health-check: a status of pass, warn or fail, and `checks`.
"""

from typing import Any

from flask import Response, jsonify, request

from app.config import Settings

JSON_MEDIA_TYPE = "application/json"
HEALTH_JSON_MEDIA_TYPE = "application/health+json"

Document = dict[str, Any]

_WARN = ("warning", "at_capacity")


def health_answer(settings: Settings, check: str, status: str, document: Document, code: int) -> Response:
    """`document` as JSON, or as the draft has it. `status` is its word for the state, `check` its subject."""
    # Probes that do not name the draft are the most, and weighing what they accept takes as long as the rest.
    names_it = HEALTH_JSON_MEDIA_TYPE in request.environ.get("HTTP_ACCEPT", "").lower()
    if (
        names_it
        and request.accept_mimetypes.best_match([JSON_MEDIA_TYPE, HEALTH_JSON_MEDIA_TYPE])
        == HEALTH_JSON_MEDIA_TYPE
    ):
        response = jsonify(_draft(settings, check, status, document, code))
        response.mimetype = HEALTH_JSON_MEDIA_TYPE
    else:
        response = jsonify(document)
    response.status_code = code
    response.headers["Vary"] = "Accept"
    return response


def _draft(settings: Settings, check: str, status: str, document: Document, code: int) -> Document:
    verdict = "fail" if code >= 400 else "warn" if status in _WARN else "pass"
    answer: Document = {"status": verdict, "serviceId": settings.service_name}
    details = {name: value for name, value in document.items() if name not in ("status", "timestamp")}
    if not details:
        return answer
    if settings.release:
        answer["releaseId"] = settings.release
    if "code" in details:
        answer["output"] = details.pop("code")
    found: Document = {"status": verdict, **details}
    if "timestamp" in document:
        found["time"] = document["timestamp"]
    return answer | {"checks": {check: [found]}}
