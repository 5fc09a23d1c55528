"""A process of the assistant: it works through the data layer, and knows what it has been promised.

    python -m tests.transfer.salon_worker COMPANY LEGACY PRIMARY

It says `done` after each round of writes, and ends on SIGTERM with what it was promised, as JSON. An
error, or a promise that was not kept, ends it at once.
"""

import json
import logging
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from app import Frontdesk, Settings
from app.errors import FencedError
from app.unit_of_work import UnitOfWork

REGULAR = 1  # the client whose visits are counted
BULK = 20


class Worker:
    """What was acknowledged is in `promised`."""

    def __init__(self, desk: Frontdesk, company_id: int) -> None:
        self._desk = desk
        self._company_id = company_id
        self._salon = desk.company(company_id)
        self.promised = {"visits": 0, "clients": 1, "bookings": 0, "keys": 0, "fenced": 0}
        self._salon.upsert_client({"yclients_id": REGULAR, "name": "Anna", "visit_count": 0}).unwrap()

    def round(self) -> None:
        """One of each kind of write; raises where one fails or an earlier one is missing."""
        promised = self.promised
        self._desk.transact(self._company_id, self._visit)
        promised["visits"] += 1
        self._block()
        promised["visits"] += 1
        first = promised["clients"] + 1
        rows = [{"yclients_id": first + n, "name": f"Client {first + n}"} for n in range(BULK)]
        assert self._salon.upsert_clients(rows).unwrap().inserted == BULK
        promised["clients"] += BULK
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1, hours=promised["bookings"])
        client = {"name": "Ira", "phone": "+79686484499", "yclients_id": 2}
        booking = {"staff_id": 7, "starts_at": start, "duration": 3600}
        booked = self._salon.create_booking(client, booking).unwrap()
        promised["bookings"] += 1
        assert self._salon.get_booking(booked.id).unwrap() is not None
        keys: dict[str, Any] = {"session": {f"{n}.0": {"n": promised["keys"] + 1} for n in range(3)}}
        self._salon.whatsapp.set_keys(keys, owner="worker").unwrap()
        promised["keys"] += 1

    def _visit(self, uow: UnitOfWork) -> None:
        client = uow.clients.find_one(yclients_id=REGULAR)
        assert client is not None
        assert client.visit_count == self.promised["visits"], "an acknowledged write is missing"
        uow.clients.upsert({"yclients_id": REGULAR, "name": "Anna", "visit_count": client.visit_count + 1})

    def _block(self) -> None:
        """A `with` block, which its caller runs again."""
        while True:
            try:
                with self._desk.unit_of_work(self._company_id) as uow:
                    self._visit(uow)
            except FencedError:
                self.promised["fenced"] += 1
            else:
                return


def main(company_id: int, legacy: str, primary: str) -> None:
    logging.basicConfig(level=logging.INFO)
    settings = Settings(
        database_url=SecretStr(primary),
        legacy_database_url=SecretStr(legacy),
        service_name=f"worker-{company_id}",
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Frontdesk(settings) as desk:
        worker = Worker(desk, company_id)
        while not stop.is_set():
            worker.round()
            print("done", flush=True)  # noqa: T201 - to the test
    print(json.dumps(worker.promised), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
