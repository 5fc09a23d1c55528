"""Token authentication of requests."""

import hmac

from flask import request
from pydantic import SecretStr


def has_token(expected: SecretStr) -> bool:
    """Return True if the request's Authorization header carries `expected`.

    The token is a Bearer token, or the password of Basic authentication so that a browser can send it.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode("latin-1", "replace")  # WSGI decodes header bytes as Latin-1
    if scheme.lower() == "basic":
        given = ((request.authorization and request.authorization.password) or "").encode()
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, expected.get_secret_value().encode())
