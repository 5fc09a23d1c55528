"""Rows of clients."""

import factory


class NewClientRow(factory.DictFactory):
    """Client argument of `create_booking`, without a YClients id."""

    name = factory.Sequence(lambda n: f"Анна {n}")
    phone = factory.Sequence(lambda n: f"+7968{n:07}")


class ClientRow(NewClientRow):
    """A client from YClients."""

    yclients_id = factory.Sequence(lambda n: n + 1)
