"""`frontdesk demo …`: things to watch."""

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
MARKS_PER_LINE = 10  # marks in a line
BOOKED, SLOT_TAKEN = "booked", "slot_taken"
MARKS = {None: "·", BOOKED: "✔", SLOT_TAKEN: "✗"}
STYLES = {None: "dim", BOOKED: "bold green", SLOT_TAKEN: "dim red"}


@dataclass(frozen=True)
class RaceResult:
    """How a race ended; `answers` counts them by code, `left_behind` rows that are not the winner's."""

    customers: int
    answers: dict[str, int]
    left_behind: int
    seconds: float

    @property
    def is_won_by_one(self) -> bool:
        """Exactly one booked, all others were told so, and nothing of theirs is left."""
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
    """Things to watch."""


@demo_commands.command("race")
@console.json_option
@click.pass_context
def race_command(ctx: click.Context, as_json: bool) -> None:
    """Fifty customers, one slot, one winner.

    It plays in a scratch company of its own, which it removes again.
    """
    with console.opened_desk() as desk:
        if desk.settings.is_production:
            raise InvalidInputError("A demo writes rows that nobody needs: it does not run in production.")
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
    """Let every customer, a thread each, ask for the same hour of the same member of staff at once."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
    salon.upsert_staff([{"yclients_id": 1, "name": "Olga"}]).unwrap()
    before = _count_rows(desk, salon.company_id)
    line = threading.Barrier(customers)

    def ask(number: int) -> tuple[int, str]:
        client = {"name": f"Customer {number}", "phone": f"+7968{number:07}"}
        line.wait()
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
    left = _count_rows(desk, salon.company_id) - before
    return RaceResult(
        customers, dict(answers), left - _expected_row_count(answers[BOOKED]), round(seconds, 3)
    )


def _expected_row_count(winners: int) -> int:
    return 3 * winners  # a client, a booking and its slot each


@contextmanager
def scratch_company(desk: Frontdesk, title: str) -> Iterator[Salon]:
    """A company that nobody else uses, removed with all its rows in the end."""
    salon = new_company(desk, title)
    try:
        yield salon
    finally:
        remove_company(desk, salon.company_id)


def new_company(desk: Frontdesk, title: str) -> Salon:
    """A company that nobody else uses."""
    salon = desk.company(8 * 10**18 + secrets.randbelow(10**18))  # YClients never counted that far
    salon.upsert_company({"title": title}).unwrap()
    return salon


def remove_company(desk: Frontdesk, company_id: int) -> None:
    """Delete all that there is of a company."""
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
    """Draw the customers as their answers come in, on a terminal; elsewhere just run."""
    screen = console.screen()
    screen.print(f"{CUSTOMERS} customers ask for the same hour with Olga at the same moment.\n")
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
    for answer, count in sorted(race.answers.items(), key=lambda each: each[1]):
        screen.print(f"{count:>4}  {answer}", style=STYLES.get(answer, "bold yellow"))
    screen.print(f"{race.left_behind:>4}  rows left behind by those who lost")
    screen.print(f"\n{race.seconds:.2f} s. ", end="")
    if race.is_won_by_one:
        screen.print("One winner, and the database knows nothing of the others.", style="bold green")
    else:
        screen.print("This must not happen: please report it with the lines above.", style="bold red")
