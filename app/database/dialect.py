"""SQLAlchemy's psycopg dialect, for compiling statements and types without an engine."""

from sqlalchemy import Dialect
from sqlalchemy.engine import make_url

DIALECT: Dialect = make_url("postgresql+psycopg://").get_dialect()()
