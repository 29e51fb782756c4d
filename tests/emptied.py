"""What a test that commits has written is gone after it: rows of the tables that have any.

Django's own way truncates every table, whose files PostgreSQL makes anew each time, and then fills in permissions,
which nobody here asks about. That took longer than most of these tests.
"""

from __future__ import annotations

from functools import cache

from django.db import connections, transaction
from django.test import TransactionTestCase

# Filled by migrating, and as they were: no test writes there.
_KEPT = {"auth_permission", "django_content_type"}


def empty_tables(test: TransactionTestCase) -> None:
    """In place of `TransactionTestCase._fixture_teardown`."""
    for alias in test._databases_names(include_mirrors=False):
        connection = connections[alias]
        # Foreign keys are looked at when all is done.
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            cursor.execute(_which_have_rows(alias))
            for (table,) in cursor.fetchall():
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")


@cache
def _which_have_rows(alias: str) -> str:
    connection = connections[alias]
    tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - _KEPT
    return " UNION ALL ".join(
        f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {connection.ops.quote_name(table)})"
        for table in sorted(tables)
    )
