"""Whether a request carries the token that it needs."""

import hmac

from flask import request
from pydantic import SecretStr


def has_token(expected: SecretStr) -> bool:
    """Whether it came along, as a Bearer token or as a Basic password (so that a browser can send it)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode("latin-1", "replace")  # as WSGI hands over the header's bytes
    if scheme.lower() == "basic":
        given = ((request.authorization and request.authorization.password) or "").encode()
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, expected.get_secret_value().encode())
