"""Whether a request carries the token that it needs."""

import hmac

from flask import request
from pydantic import SecretStr


def has_token(expected: SecretStr) -> bool:
    """Whether it came along, as a Bearer token or as a Basic password (so that a browser can send it)."""
    given = request.authorization
    if given is None:
        return False
    token = given.token if given.type == "bearer" else given.password
    return hmac.compare_digest((token or "").encode(), expected.get_secret_value().encode())
