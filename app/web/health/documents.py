"""Health responses in two formats: Frontdesk's JSON and `application/health+json` (content negotiation).

The second format follows draft-inadarei-api-health-check: a status of pass, warn or fail, and `checks`.
"""

from typing import Any

from flask import Response, jsonify, request

from app.config import Settings

JSON_MEDIA_TYPE = "application/json"
HEALTH_JSON_MEDIA_TYPE = "application/health+json"

Document = dict[str, Any]

_WARN = ("warning", "at_capacity")


def health_answer(settings: Settings, check: str, status: str, document: Document, code: int) -> Response:
    """Return `document` as a response with status `code`, in the format that the request accepts.

    Args:
        settings: Supply the service name and release for the draft's format.
        check: Name of the check in the draft's format, for example "database".
        status: Status word of the document, for example "healthy" or "warning".
        document: The response in Frontdesk's format.
        code: HTTP status code.
    """
    # Parse Accept only when it mentions the draft's type: parsing costs as much as the rest of a probe.
    accepts_draft = HEALTH_JSON_MEDIA_TYPE in request.environ.get("HTTP_ACCEPT", "").lower()
    if (
        accepts_draft
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
    draft_status = "fail" if code >= 400 else "warn" if status in _WARN else "pass"
    answer: Document = {"status": draft_status, "serviceId": settings.service_name}
    details = {name: value for name, value in document.items() if name not in ("status", "timestamp")}
    if not details:
        return answer
    if settings.release:
        answer["releaseId"] = settings.release
    if "code" in details:
        answer["output"] = details.pop("code")
    result: Document = {"status": draft_status, **details}
    if "timestamp" in document:
        result["time"] = document["timestamp"]
    return answer | {"checks": {check: [result]}}
