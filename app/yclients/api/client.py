"""Client of the YClients REST API, with rate limit, retries and timeouts."""

import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential, wait_random

from app.config import Settings
from app.errors import ConfigurationError
from app.yclients.api.rate_limit import RateLimiter
from app.yclients.api.responses import ApiResponse, parse_response
from app.yclients.errors import TokensMissingError, TransientError, YClientsError

log = logging.getLogger(__name__)

CLIENTS_PER_PAGE = 200  # the maximum of YClients
RECORDS_PER_PAGE = 300
CLIENT_FIELDS = (
    "id",
    "name",
    "surname",
    "patronymic",
    "phone",
    "email",
    "discount",
    "importance",
    "birth_date",
    "comment",
    "spent",
    "balance",
    "visits",
    "last_change_date",
)
RESPONSE_TIMEOUT_SECONDS = 60.0  # for one complete response
MAX_REQUEST_ATTEMPTS = 6
MAX_BACKOFF_SECONDS = 30.0  # between two attempts
MAX_RETRY_AFTER_SECONDS = 120.0  # if YClients asks to wait longer, the sync ends with an error
MAX_RESPONSE_BYTES = 64 * 1024 * 1024


class YClientsClient:
    """Client with both tokens. Threads may share it; leaving the `with` block ends their waits."""

    def __init__(
        self,
        settings: Settings,
        limiter: RateLimiter,
        initial_backoff: float = 1.0,
        response_timeout: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> None:
        """Use the tokens and URL of the settings. Raises ConfigurationError if they are missing or invalid.

        `initial_backoff` is the delay before the second attempt in seconds; it doubles with each attempt.
        `response_timeout` is the maximum duration of one response in seconds.
        """
        base_url = api_url(settings)
        if settings.is_production and base_url.scheme != "https":
            raise ConfigurationError(
                "YCLIENTS_BASE_URL: must be an https URL in production, because requests contain tokens."
            )
        self._limiter = limiter
        self._response_timeout = response_timeout
        self._counting = threading.Lock()
        self.request_count = 0
        self._stopped = threading.Event()
        partner = _token(settings.yclients_partner_token)
        user = _token(settings.yclients_user_token)
        self._http = httpx.Client(
            base_url=base_url,
            headers={
                "Authorization": f"Bearer {partner}, User {user}",
                "Accept": "application/vnd.yclients.v2+json",
            },
            timeout=httpx.Timeout(min(response_timeout, 30.0), connect=min(response_timeout, 10.0)),
            # A redirect is an error, so that the tokens are not sent to another server.
            follow_redirects=False,
            verify=_tls_context(),
        )
        self._retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(MAX_REQUEST_ATTEMPTS),
            wait=_Backoff(initial_backoff),
            sleep=self._wait,
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._http.close()

    # Resources

    def company(self, company_id: int) -> ApiResponse:
        """Return the salon as one row."""
        return self._get(f"company/{company_id}")

    def service_categories(self, company_id: int) -> ApiResponse:
        """Return all categories of the price list."""
        return self._get(f"company/{company_id}/service_categories/")

    def services(self, company_id: int) -> ApiResponse:
        """Return the complete price list."""
        return self._get(f"company/{company_id}/services/")

    def staff(self, company_id: int) -> ApiResponse:
        """Return all members of staff."""
        return self._get(f"company/{company_id}/staff/")

    def clients(self, company_id: int, page: int) -> ApiResponse:
        """Return one page (from 1) of all clients in the order of their ids."""
        body = {
            "page": page,
            "page_size": CLIENTS_PER_PAGE,
            "fields": CLIENT_FIELDS,
            "order_by": "id",
            "order_by_direction": "ASC",
        }
        return self._request("POST", f"company/{company_id}/clients/search", body=body)

    def records(self, company_id: int, page: int, changed_after: datetime | None) -> ApiResponse:
        """Return one page (from 1) of the bookings that changed after `changed_after`, or of all (None).

        Deleted bookings are included.
        """
        parameters: dict[str, Any] = {"page": page, "count": RECORDS_PER_PAGE, "with_deleted": 1}
        if changed_after is not None:
            parameters["changed_after"] = changed_after.strftime("%Y-%m-%dT%H:%M:%S%z")
        return self._get(f"records/{company_id}", parameters)

    def schedule(self, company_id: int, staff_id: int, first: date, last: date) -> ApiResponse:
        """Return the schedule of a member of staff from `first` to `last`, both inclusive."""
        return self._get(f"schedule/{company_id}/{staff_id}/{first.isoformat()}/{last.isoformat()}")

    # Requests

    def _get(self, path: str, parameters: Mapping[str, Any] | None = None) -> ApiResponse:
        return self._request("GET", path, parameters)

    def _request(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None, body: Any = None
    ) -> ApiResponse:
        """Send a request, retrying after transient errors. Raises YClientsError.

        Retries are safe, because all requests only read.
        """
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(
            method, path, params=parameters or None, content=content, headers=headers
        )

        def attempt() -> ApiResponse:
            self._wait(self._limiter.reserve())
            with self._counting:
                self.request_count += 1
            try:
                return parse_response(*self._exchange(request))
            except TransientError as error:
                # The pause applies to all processes, because the limit does.
                if error.retry_after is not None and error.retry_after <= MAX_RETRY_AFTER_SECONDS:
                    self._limiter.pause(error.retry_after)
                raise

        return self._retrying(attempt)

    def _exchange(self, request: httpx.Request) -> tuple[int, bytes, float | None]:
        """Send a request; return status, body and the seconds of Retry-After."""
        deadline = time.monotonic() + self._response_timeout
        content = bytearray()
        try:
            response = self._http.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        raise TransientError(
                            f"YClients took more than {self._response_timeout:.0f} s for a response."
                        )
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise YClientsError("YClients sends a response that is too large.")
            finally:
                response.close()
        except httpx.TimeoutException:
            raise TransientError("YClients does not respond (timeout).") from None
        except httpx.RequestError as error:
            raise _unreachable(error) from None
        return response.status_code, bytes(content), _retry_after(response.headers)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise YClientsError("The sync was stopped.")


def api_url(settings: Settings) -> httpx.URL:
    """Return the URL of the API. Raises ConfigurationError if it is invalid."""
    try:
        return httpx.URL(settings.yclients_base_url)
    except httpx.InvalidURL:
        raise ConfigurationError("YCLIENTS_BASE_URL: is not a URL.") from None


class _Backoff(wait_base):
    """Wait for the time that YClients asks for, or exponentially longer, with random jitter."""

    def __init__(self, first: float) -> None:
        self._exponential = wait_exponential(multiplier=first, max=MAX_BACKOFF_SECONDS) + wait_random(
            0, first
        )

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        retry_after = error.retry_after if isinstance(error, TransientError) else None
        if retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS:
            raise TransientError(
                f"YClients asks to wait for {retry_after:.0f} s: start the sync again after that."
            ) from None
        return max(retry_after or 0.0, self._exponential(retry_state))


@cache
def _tls_context() -> ssl.SSLContext:
    """Return the TLS context of all clients. It is created once, because it reads all CA certificates."""
    return httpx.create_ssl_context()


def _token(secret: SecretStr | None) -> str:
    """Return the token. Raises TokensMissingError if it is invalid in a header; httpx would show it."""
    token = secret.get_secret_value().strip() if secret else ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokensMissingError
    return token


def _unreachable(error: httpx.RequestError) -> YClientsError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return YClientsError("The TLS certificate of the YClients server is invalid; nothing was sent.")
        cause = cause.__cause__ or cause.__context__
    return TransientError(f"YClients cannot be reached ({type(error).__name__}).")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds of a Retry-After header, which contains a number of seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:10])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # missing, or not a date with a time zone
        return None
