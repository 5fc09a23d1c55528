"""What can go wrong with YClients, in words that say what to do. No token and no payload is in them."""

from app.errors import ConfigurationError, ConflictError, FrontdeskError


class YClientsError(FrontdeskError):
    """YClients did not answer as it should."""

    code = "unavailable"

    def __init__(self, message: str | None = None) -> None:
        """Without a message the class says what is wrong, in one line."""
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class TransientError(YClientsError):
    """YClients cannot be reached or is out of order; the sync can be started again later."""

    retryable = True

    def __init__(self, message: str | None = None, retry_after: float | None = None) -> None:
        """`retry_after`: for how many seconds YClients asks to be left alone."""
        self.retry_after = retry_after
        super().__init__(message)


class RefusedError(YClientsError):
    """YClients refuses the request; asking again will not help."""


class UnauthorizedError(RefusedError):
    """YClients does not accept the tokens (401): check YCLIENTS_PARTNER_TOKEN and YCLIENTS_USER_TOKEN."""


class PaymentRequiredError(RefusedError):
    """YClients wants to be paid first (402): the salon's licence or its API access has run out."""


class ForbiddenError(RefusedError):
    """The user of YCLIENTS_USER_TOKEN may not read this (403): give that user the right in the salon's
    YClients settings, and see that the salon has connected the integration."""


class YClientsNotFoundError(RefusedError):
    """YClients knows no such salon, or nothing at this address (404): check the company id and
    YCLIENTS_BASE_URL."""


class TokensMissingError(ConfigurationError):
    """The sync needs YCLIENTS_PARTNER_TOKEN and YCLIENTS_USER_TOKEN: printable characters, no blanks."""


class SyncRunningError(ConflictError):
    """A sync of this company is running already; see `frontdesk sync status`."""

    retryable = True
