"""Rows of companies."""

import factory


class CompanyRow(factory.DictFactory):
    title = "Salon"
    timezone = "Europe/Moscow"
    country = "RU"
