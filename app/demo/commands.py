"""`frontdesk demo`: demonstrations on the command line."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import click
from rich.live import Live
from rich.text import Text
from sqlalchemy import Table, delete, func, select

from app.cli import console
from app.cli.lazy_group import LazyGroup
from app.data_layer import DataLayer
from app.errors import InvalidInputError
from app.frontdesk import Frontdesk, Salon
from app.models import Base

CUSTOMERS = 50
MARKS_PER_LINE = 10
BOOKED, SLOT_TAKEN = "booked", "slot_taken"
MARKS = {None: "·", BOOKED: "✔", SLOT_TAKEN: "✗"}
STYLES = {None: "dim", BOOKED: "bold green", SLOT_TAKEN: "dim red"}


@dataclass(frozen=True)
class RaceResult:
    """Result of a race: the number of answers by code, and the rows `left_behind` by refused bookings."""

    customers: int
    answers: dict[str, int]
    left_behind: int
    seconds: float

    @property
    def is_won_by_one(self) -> bool:
        """True if exactly one booking succeeded and the refused ones left no rows."""
        return self.answers == {BOOKED: 1, SLOT_TAKEN: self.customers - 1} and not self.left_behind


@click.group(
    "demo",
    cls=LazyGroup,
    import_paths={
        "traffic": "app.demo.traffic:traffic_command",
        "yclients": "app.demo.yclients:demo_yclients_command",
    },
)
def demo_commands() -> None:
    """Show what Frontdesk does, in demonstrations."""


@demo_commands.command("race")
@console.json_option
@click.pass_context
def race_command(ctx: click.Context, as_json: bool) -> None:
    """Let fifty customers book the same slot at once; one succeeds.

    The demo uses a temporary company, which it removes at the end.
    """
    with console.opened_desk() as desk:
        if desk.settings.is_production:
            raise InvalidInputError("A demo writes test rows, so it does not run in production.")
        with scratch_company(desk, "Demo: race for a slot") as salon:
            race = run_race(desk, salon, CUSTOMERS) if as_json else _run_race_with_display(desk, salon)
    if as_json:
        console.print_json(asdict(race) | {"won_by_one": race.is_won_by_one})
    else:
        _report(race)
    if not race.is_won_by_one:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def run_race(
    desk: Frontdesk, salon: DataLayer, customers: int, on_answer: Callable[[int, str], None] | None = None
) -> RaceResult:
    """Book the same hour of one member of staff from `customers` threads at once, and return the result.

    `on_answer` is called with the number of the customer and the answer's code.
    """
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
    salon.upsert_staff([{"yclients_id": 1, "name": "Olga"}]).unwrap()
    before = _count_rows(desk, salon.company_id)
    barrier = threading.Barrier(customers)

    def ask(number: int) -> tuple[int, str]:
        client = {"name": f"Customer {number}", "phone": f"+7968{number:07}"}
        barrier.wait()
        result = salon.create_booking(client, {"staff_id": 1, "starts_at": start, "duration": 3600})
        return number, BOOKED if result.error is None else result.error.code

    answers: Counter[str] = Counter()
    began = time.monotonic()
    with ThreadPoolExecutor(customers) as threads:
        for answered in as_completed([threads.submit(ask, number) for number in range(customers)]):
            number, answer = answered.result()
            answers[answer] += 1
            if on_answer is not None:
                on_answer(number, answer)
    seconds = time.monotonic() - began
    added = _count_rows(desk, salon.company_id) - before
    return RaceResult(
        customers, dict(answers), added - _expected_row_count(answers[BOOKED]), round(seconds, 3)
    )


def _expected_row_count(winners: int) -> int:
    return 3 * winners  # each has a client, a booking and its slot


@contextmanager
def scratch_company(desk: Frontdesk, title: str) -> Iterator[Salon]:
    """Create a temporary company, and delete it with all its rows at the end."""
    salon = new_company(desk, title)
    try:
        yield salon
    finally:
        remove_company(desk, salon.company_id)


def new_company(desk: Frontdesk, title: str) -> Salon:
    """Create a company with a random id that no real company has."""
    salon = desk.company(8 * 10**18 + secrets.randbelow(10**18))  # far above the ids of YClients
    salon.upsert_company({"title": title}).unwrap()
    return salon


def remove_company(desk: Frontdesk, company_id: int) -> None:
    """Delete all rows of a company."""
    with desk.unit_of_work(company_id) as uow:
        for table in reversed(_tenant_tables()):
            uow.session.execute(delete(table).where(table.c.company_id == company_id))


def _count_rows(desk: Frontdesk, company_id: int) -> int:
    with desk.unit_of_work(company_id) as uow:
        counts = [
            select(func.count()).select_from(table).where(table.c.company_id == company_id)
            for table in _tenant_tables()
        ]
        return sum(uow.session.scalars(count).one() for count in counts)


def _tenant_tables() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if "company_id" in table.c]


def _run_race_with_display(desk: Frontdesk, salon: DataLayer) -> RaceResult:
    """Run the race and, on a terminal, show each customer's answer as soon as it arrives."""
    screen = console.screen()
    screen.print(f"{CUSTOMERS} customers book the same hour with Olga at the same moment.\n")
    if not screen.is_terminal:
        return run_race(desk, salon, CUSTOMERS)
    known: dict[int, str] = {}
    with Live(_marks(known), console=screen, refresh_per_second=30) as live:

        def draw(number: int, answer: str) -> None:
            known[number] = answer
            live.update(_marks(known))

        return run_race(desk, salon, CUSTOMERS, draw)


def _marks(answers: dict[int, str]) -> Text:
    text = Text()
    for number in range(CUSTOMERS):
        answer = answers.get(number)
        text.append(f"  {MARKS.get(answer, '!')}", STYLES.get(answer, "bold yellow"))
        if (number + 1) % MARKS_PER_LINE == 0:
            text.append("\n")
    return text


def _report(race: RaceResult) -> None:
    screen = console.screen()
    for answer, count in sorted(race.answers.items(), key=lambda item: item[1]):
        screen.print(f"{count:>4}  {answer}", style=STYLES.get(answer, "bold yellow"))
    screen.print(f"{race.left_behind:>4}  rows left by refused bookings")
    screen.print(f"\n{race.seconds:.2f} s. ", end="")
    if race.is_won_by_one:
        screen.print("One winner; the refused bookings left no rows.", style="bold green")
    else:
        screen.print("This is a bug: please report it with the output above.", style="bold red")
