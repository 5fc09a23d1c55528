"""YClients' REST API: one request at a time, within its limits, again where that can help."""

import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
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

CLIENTS_PER_PAGE = 200  # what YClients allows at most
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
RESPONSE_TIMEOUT_SECONDS = 60.0  # seconds for one whole answer
MAX_REQUEST_ATTEMPTS = 6
MAX_BACKOFF_SECONDS = 30.0  # seconds between two attempts
MAX_RETRY_AFTER_SECONDS = (
    120.0  # seconds that YClients may ask for; for longer the sync is better started again
)
MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # bytes


class YClientsClient:
    """The API with both tokens. Safe to share between threads; leaving the `with` block ends their waits."""

    def __init__(
        self,
        settings: Settings,
        limiter: RateLimiter,
        initial_backoff: float = 1.0,
        response_timeout: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> None:
        """`initial_backoff`: seconds before the second attempt, doubled for each one after it;
        `response_timeout`: seconds
        for one answer. Raises ConfigurationError."""
        base_url = api_url(settings)
        if settings.is_production and base_url.scheme != "https":
            raise ConfigurationError("YCLIENTS_BASE_URL: production sends its tokens over https only.")
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
            # The tokens go nowhere else: a redirect is an error.
            follow_redirects=False,
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

    # What is asked for

    def company(self, company_id: int) -> ApiResponse:
        """The salon: one row."""
        return self._get(f"company/{company_id}")

    def service_categories(self, company_id: int) -> ApiResponse:
        """All categories of the price list."""
        return self._get(f"company/{company_id}/service_categories/")

    def services(self, company_id: int) -> ApiResponse:
        """The whole price list."""
        return self._get(f"company/{company_id}/services/")

    def staff(self, company_id: int) -> ApiResponse:
        """Everyone who works there."""
        return self._get(f"company/{company_id}/staff/")

    def clients(self, company_id: int, page: int) -> ApiResponse:
        """One page of all clients, counted from 1, in the order of their ids."""
        wanted = {
            "page": page,
            "page_size": CLIENTS_PER_PAGE,
            "fields": CLIENT_FIELDS,
            "order_by": "id",
            "order_by_direction": "ASC",
        }
        return self._request("POST", f"company/{company_id}/clients/search", body=wanted)

    def records(self, company_id: int, page: int, changed_after: datetime | None) -> ApiResponse:
        """One page of bookings, counted from 1, deleted ones too; those changed since then, or all."""
        wanted: dict[str, Any] = {"page": page, "count": RECORDS_PER_PAGE, "with_deleted": 1}
        if changed_after is not None:
            wanted["changed_after"] = changed_after.strftime("%Y-%m-%dT%H:%M:%S%z")
        return self._get(f"records/{company_id}", wanted)

    def schedule(self, company_id: int, staff_id: int, first: date, last: date) -> ApiResponse:
        """One member of staff's days from `first` to `last`, both included."""
        return self._get(f"schedule/{company_id}/{staff_id}/{first.isoformat()}/{last.isoformat()}")

    # How it is asked

    def _get(self, path: str, wanted: Mapping[str, Any] | None = None) -> ApiResponse:
        return self._request("GET", path, wanted)

    def _request(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None, body: Any = None
    ) -> ApiResponse:
        """Ask until there is an answer. Raises YClientsError; every request here only reads."""
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
                # Every process hears of it, so that none runs into the same refusal.
                if error.retry_after is not None and error.retry_after <= MAX_RETRY_AFTER_SECONDS:
                    self._limiter.pause(error.retry_after)
                raise

        return self._retrying(attempt)

    def _exchange(self, request: httpx.Request) -> tuple[int, bytes, float | None]:
        """Send it; return the status, the body and the seconds of Retry-After."""
        deadline = time.monotonic() + self._response_timeout
        content = bytearray()
        try:
            response = self._http.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        raise TransientError(
                            f"YClients took more than {self._response_timeout:.0f} s for an answer."
                        )
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise YClientsError("YClients sends an answer that is too large to be one.")
            finally:
                response.close()
        except httpx.TimeoutException:
            raise TransientError("YClients does not answer (time-out).") from None
        except httpx.RequestError as error:
            raise _unreachable(error) from None
        return response.status_code, bytes(content), _retry_after(response.headers)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise YClientsError("The sync was stopped.")


def api_url(settings: Settings) -> httpx.URL:
    """Where the API is. Raises ConfigurationError."""
    try:
        return httpx.URL(settings.yclients_base_url)
    except httpx.InvalidURL:
        raise ConfigurationError("YCLIENTS_BASE_URL: is not a URL.") from None


class _Backoff(wait_base):
    """What YClients asks for, or longer after each failure, at random so that processes part."""

    def __init__(self, first: float) -> None:
        self._longer = wait_exponential(multiplier=first, max=MAX_BACKOFF_SECONDS) + wait_random(0, first)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked_for = error.retry_after if isinstance(error, TransientError) else None
        if asked_for is not None and asked_for > MAX_RETRY_AFTER_SECONDS:
            raise TransientError(
                f"YClients asks to be left alone for {asked_for:.0f} s; start the sync again after that."
            ) from None
        return max(asked_for or 0.0, self._longer(retry_state))


def _token(secret: SecretStr | None) -> str:
    """The token; one that no header can hold would end in an error that shows it."""
    token = secret.get_secret_value().strip() if secret else ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokensMissingError
    return token


def _unreachable(error: httpx.RequestError) -> YClientsError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return YClientsError("The certificate of YClients' address is not valid; nothing was sent.")
        cause = cause.__cause__ or cause.__context__
    return TransientError(f"YClients cannot be reached ({type(error).__name__}).")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, from a number of them or from a date."""
    written = headers.get("Retry-After", "").strip()
    if written.isdecimal():
        return float(written[:10])
    try:
        return max(0.0, (parsedate_to_datetime(written) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # absent, or no date with a time zone
        return None
