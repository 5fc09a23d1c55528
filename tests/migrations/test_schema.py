"""The schema that migrations build: that of the models, and the old one after a downgrade."""

from typing import Any

import pytest
from sqlalchemy import Connection, MetaData

from app.adoption import adopt
from app.migrations import runner, schema_snapshot
from app.models import Base
from tests.migrations.databases import Database

# Without names of NOT NULL constraints: PostgreSQL 18 generates them, and keeps them in a column rename.
CATALOG = {
    "columns": """
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
               pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid
             AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, condeferrable,
               condeferred
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    """,
    "indexes": """
        SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid FROM pg_index
        JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'public'::regnamespace
    """,
    "sequences": """
        SELECT seqrelid::regclass::text, format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin,
               seqcycle, refobjid::regclass::text, deptype
        FROM pg_sequence JOIN pg_depend ON objid = seqrelid AND deptype IN ('a', 'i')
    """,
    "others": """
        SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'type', typname FROM pg_type
                  WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
        UNION ALL SELECT relkind::text, relname FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm', 'S')
    """,
}


def catalog(database: Database) -> dict[str, set[tuple[Any, ...]]]:
    return {
        kind: {
            tuple(row.values())
            for row in database.rows(statement)
            if not any("alembic_version" in str(value) for value in row.values())
        }
        for kind, statement in CATALOG.items()
    }


def test_the_migrations_build_the_schema_of_the_models(at_head: Database, fresh: Database) -> None:
    with runner.migration_engine(fresh.url) as engine:
        Base.metadata.create_all(engine)
    migrated, models = catalog(at_head), catalog(fresh)
    for kind in CATALOG:
        assert migrated[kind] ^ models[kind] == set(), kind


def test_autogenerate_finds_no_difference_at_head(at_head: Database) -> None:
    at_head.check()
    assert at_head.state is runner.SchemaState.AT_HEAD


def test_a_downgrade_to_the_baseline_restores_the_old_schema(at_head: Database, old: Database) -> None:
    at_head.downgrade("baseline")
    assert catalog(at_head) == catalog(old)


def test_each_revision_matches_its_snapshot_and_can_be_downgraded(fresh: Database) -> None:
    for script in reversed(list(runner.script_directory().walk_revisions())):
        fresh.upgrade(script.revision)
        before = catalog(fresh)
        assert adopt.expected_snapshots()[script.revision] == snapshot_of(fresh), (
            "run `make describe-migrations`"
        )
        fresh.downgrade("-1")
        fresh.upgrade(script.revision)
        assert catalog(fresh) == before, script.revision


def snapshot_of(database: Database) -> dict[str, str]:
    with runner.migration_engine(database.url) as engine, engine.connect() as connection:
        return schema_snapshot.read(connection, schema_snapshot.existing_tables(connection))


def test_a_downgrade_to_base_drops_empty_tables(at_head: Database) -> None:
    at_head.downgrade("base")
    assert catalog(at_head)["others"] == set()
    at_head.upgrade()
    at_head.check()


def reflected(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata


# Tables of the installation: rows may be archived because their company id is invalid, an API limits the
# requests of all companies together, and a backup contains all companies.
NOT_OF_A_TENANT = {"archived_rows", "backup_runs", "request_budgets", "alembic_version"}


@pytest.mark.parametrize("source", ["models", "database"])
def test_every_key_of_a_tenant_table_contains_the_company(source: str, head_template: Database) -> None:
    with runner.migration_engine(head_template.url) as engine, engine.connect() as connection:
        metadata = Base.metadata if source == "models" else reflected(connection)
    tenants = [table for name, table in metadata.tables.items() if name not in NOT_OF_A_TENANT]
    assert len(tenants) == 15
    for table in tenants:
        company = table.c.company_id
        assert str(company.type) == "BIGINT", table.name
        assert company.nullable is False, table.name
        assert "company_id" in table.primary_key.columns, table.name


def test_every_unique_index_in_the_database_contains_the_company(head_template: Database) -> None:
    """The catalog also has the exclusion constraints, which SQLAlchemy's reflection omits."""
    keys = head_template.rows(
        "SELECT indrelid::regclass::text AS table, pg_get_indexdef(indexrelid) AS index,"
        " coalesce(condeferrable, false) AS deferrable"
        " FROM pg_index JOIN pg_class ON pg_class.oid = indrelid"
        " LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u', 'x')"
        " WHERE relnamespace = 'public'::regnamespace AND (indisunique OR indisexclusion)"
    )
    assert len(keys) > 26
    for key in keys:
        assert "company_id" in key["index"] or key["table"] in NOT_OF_A_TENANT, key
        assert not key["deferrable"], "ON CONFLICT refuses deferrable constraints"
