"""Errors of the YClients integration. Messages say what to do, and contain no token and no payload."""

from app.errors import ConfigurationError, ConflictError, FrontdeskError


class YClientsError(FrontdeskError):
    """YClients sent an invalid response."""

    code = "unavailable"

    def __init__(self, message: str | None = None) -> None:
        """Use the docstring of the class as the message if none is given."""
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class TransientError(YClientsError):
    """YClients is unreachable or has an internal error. Start the sync again later."""

    retryable = True

    def __init__(self, message: str | None = None, retry_after: float | None = None) -> None:
        """`retry_after` is the number of seconds that YClients asks to wait, if it does."""
        self.retry_after = retry_after
        super().__init__(message)


class RefusedError(YClientsError):
    """YClients refuses the request. A retry will not help."""


class UnauthorizedError(RefusedError):
    """YClients does not accept the tokens (401): check YCLIENTS_PARTNER_TOKEN and YCLIENTS_USER_TOKEN."""


class PaymentRequiredError(RefusedError):
    """YClients requires a payment (402): the salon's licence or its API access has expired."""


class ForbiddenError(RefusedError):
    """The user of YCLIENTS_USER_TOKEN has no permission to read this (403). Grant it in the YClients settings
    of the salon, and check that the salon has connected the integration."""


class YClientsNotFoundError(RefusedError):
    """The salon or the URL does not exist in YClients (404): check the company id and YCLIENTS_BASE_URL."""


class TokensMissingError(ConfigurationError):
    """The sync requires YCLIENTS_PARTNER_TOKEN and YCLIENTS_USER_TOKEN, in ASCII and without spaces."""


class SyncRunningError(ConflictError):
    """A sync of the company is already running: see `frontdesk sync status`."""

    retryable = True
