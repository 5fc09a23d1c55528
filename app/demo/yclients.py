"""`frontdesk demo yclients`: run a fake YClients API, to try a sync end to end."""

import shutil
import sys
import threading

import click

from app.cli import console
from app.demo.fake_yclients.salon import FIRST_CLIENT, FakeSalon, RowCounts
from app.demo.fake_yclients.server import API, PARTNER_TOKEN, USER_TOKEN, FakeYClients, run_server
from app.yclients.api.client import CLIENTS_PER_PAGE, RECORDS_PER_PAGE
from app.yclients.api.rate_limit import estimate_seconds

COMPANY_ID = 962302


def _size(name: str) -> int:
    return int(getattr(RowCounts(), name))


@click.command("yclients")
@click.option("--port", type=click.IntRange(1, 65535), default=8100, show_default=True)
@click.option("--clients", type=click.IntRange(0), default=_size("clients"), show_default=True)
@click.option("--staff", type=click.IntRange(1), default=_size("staff"), show_default=True)
@click.option("--services", type=click.IntRange(1), default=_size("services"), show_default=True)
@click.option("--bookings", type=click.IntRange(0), default=_size("records"), show_default=True)
def demo_yclients_command(port: int, clients: int, staff: int, services: int, bookings: int) -> None:
    """Run a fake YClients API with a generated salon and the rate limits of the real API.

    Sync with it from another terminal: the commands are printed. Ctrl-C stops the server and discards its
    data.
    """
    sizes = RowCounts(clients=clients, staff=staff, services=services, records=bookings)
    fake = FakeYClients(FakeSalon(COMPANY_ID, sizes))
    try:
        with run_server(fake, port=port, on_answer=click.echo) as address:
            _print_instructions(address, sizes)
            threading.Event().wait()
    except OSError:
        raise console.CouldNotRun(f"Port {port} is in use; choose another with --port.") from None
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped after {len(fake.request_log):,} requests;"
            f" {fake.rate_limited:,} more were refused because of the rate limits."
        )


def requests_needed(sizes: RowCounts) -> int:
    """Return the number of requests of a first sync.

    The sync requests four lists, the pages of clients and records (each with a last page that shows the end),
    and one schedule per member of staff.
    """
    pages = sizes.clients // CLIENTS_PER_PAGE + sizes.records // RECORDS_PER_PAGE + 2
    return 4 + pages + sizes.staff


def _print_instructions(address: str, sizes: RowCounts) -> None:
    frontdesk = "frontdesk" if shutil.which("frontdesk") else sys.argv[0]
    needed = requests_needed(sizes)
    duration = _format_duration(estimate_seconds(needed))
    control = address.removesuffix(API) + "/control"
    post = "curl -s -X POST -H 'Content-Type: application/json' -d"
    click.echo(
        f"""The fake YClients API runs on {address}
It has {sizes.clients:,} clients, {sizes.staff:,} staff, {sizes.services:,} services and
{sizes.records:,} bookings, and allows 5 requests a second and 200 a minute.

In another terminal:

  export YCLIENTS_BASE_URL={address} YCLIENTS_PARTNER_TOKEN={PARTNER_TOKEN} YCLIENTS_USER_TOKEN={USER_TOKEN}
  {frontdesk} sync yclients --company {COMPANY_ID}

The first sync needs about {needed:,} requests; the rate limits make it take {duration}.
Then change something here, and sync again:

  {post} '{{"name": "Ариадна"}}' {control}/clients/{FIRST_CLIENT}
  curl -s -X DELETE {control}/clients/{FIRST_CLIENT + 1}
  {post} '{{"kind": "status", "status": 503, "times": 3}}' {control}/moods
  {frontdesk} sync yclients --company {COMPANY_ID}
  {frontdesk} sync status

Ctrl-C stops the server. Incoming requests:
"""
    )


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
