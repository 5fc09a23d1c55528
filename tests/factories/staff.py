"""Rows of staff and their schedules."""

from datetime import date

import factory


class StaffRow(factory.DictFactory):
    yclients_id = factory.Sequence(lambda n: n + 1)
    name = factory.Sequence(lambda n: f"Ольга {n}")


class StaffScheduleRow(factory.DictFactory):
    staff_id = factory.Sequence(lambda n: n + 1)
    date = date(2026, 12, 1)
    intervals = factory.LazyFunction(lambda: [{"from": "10:00", "to": "18:00"}])
