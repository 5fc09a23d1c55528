"""Rows of clients."""

import factory


class NewClientRow(factory.DictFactory):
    """A client of `create_booking`: no YClients id yet."""

    name = factory.Sequence(lambda n: f"Анна {n}")
    phone = factory.Sequence(lambda n: f"+7968{n:07}")


class ClientRow(NewClientRow):
    yclients_id = factory.Sequence(lambda n: n + 1)
