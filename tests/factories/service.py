"""Rows of services and their categories."""

import factory


class ServiceCategoryRow(factory.DictFactory):
    yclients_id = factory.Sequence(lambda n: n + 1)
    title = factory.Sequence(lambda n: f"Стрижки {n}")


class ServiceRow(factory.DictFactory):
    yclients_id = factory.Sequence(lambda n: n + 1)
    title = factory.Sequence(lambda n: f"Стрижка {n}")
    duration = 3600
