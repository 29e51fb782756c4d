"""Statements written by hand, for the few that stand between a message and its answer. Knows no model of ours.

Putting a simple query together costs Django ten times what the database takes to answer it
(docs/decisions/0004-statements-by-hand.md). The text is the same for SQLite and PostgreSQL; values are placeholders.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cache
from typing import Any, TypeVar

from django.db import connection, models

M = TypeVar("M", bound=models.Model)


def fetch(sql: str, *values: object) -> list[tuple[Any, ...]]:
    """All rows, each column as the driver gives it (a UUID as text on SQLite)."""
    with connection.cursor() as cursor:
        cursor.execute(sql, _adapted(values))
        return cursor.fetchall()


def execute(sql: str, *values: object) -> int:
    """The number of rows changed."""
    with connection.cursor() as cursor:
        cursor.execute(sql, _adapted(values))
        return cursor.rowcount


def instances(model: type[M], sql: str, *values: object) -> list[M]:
    """Rows that have the model's columns, as the ORM would give them."""
    with connection.cursor() as cursor:
        cursor.execute(sql, _adapted(values))
        part = _part(connection.vendor, model, tuple(column[0] for column in cursor.description))
        return [part.build(row) for row in cursor.fetchall()]


def joined(models_: Mapping[str, type[models.Model]], rest: str, *values: object) -> list[list[Any]]:
    """Rows of several models at once, of each row its instances. `models_` are by the names that `rest`, which begins
    with FROM, gives their tables."""
    parts = [_part(connection.vendor, model) for model in models_.values()]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_columns(tuple(models_.items()))} {rest}", _adapted(values))
        rows = cursor.fetchall()
    found = []
    for row in rows:
        instances, at = [], 0
        for part in parts:
            instances.append(part.build(row[at : at + len(part.names)]))
            at += len(part.names)
        found.append(instances)
    return found


class _Part:
    """How a model's instance is made of the columns that a driver gives, in whatever order."""

    def __init__(self, model: type[models.Model], columns: Sequence[str]) -> None:
        # Those of a model are taken in its own order.
        fields = [field for field in model._meta.concrete_fields if field.column in columns]
        self.names = [field.attname for field in fields]
        self._model = model
        self._places = [columns.index(str(field.column)) for field in fields]
        self._converters = []
        for at, field in enumerate(fields):
            column = field.get_col(model._meta.db_table)
            convert = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
            if convert:
                self._converters.append((at, column, convert))

    def build(self, row: Sequence[Any]) -> Any:
        values = [row[place] for place in self._places]
        for at, column, convert in self._converters:
            for converter in convert:
                values[at] = converter(values[at], column, connection)
        return self._model.from_db(connection.alias, self.names, values)


@cache
def _part(vendor: str, model: type[models.Model], columns: tuple[str, ...] | None = None) -> _Part:
    return _Part(model, columns or [str(field.column) for field in model._meta.concrete_fields])


@cache
def _columns(models_: tuple[tuple[str, type[models.Model]], ...]) -> str:
    return ", ".join(f"{name}.{field.column}" for name, model in models_ for field in model._meta.concrete_fields)


def insert(rows: Sequence[models.Model]) -> None:
    """New rows of one model, all with their primary keys, in one statement: as bulk_create leaves them."""
    model = type(rows[0])
    fields = model._meta.concrete_fields
    head, places = _insertion(model)
    values = [
        field.get_db_prep_save(field.pre_save(row, add=True), connection) for row in rows for field in fields
    ]
    with connection.cursor() as cursor:
        cursor.execute(head + ", ".join([places] * len(rows)), values)
    for row in rows:
        row._state.adding, row._state.db = False, connection.alias


@cache
def _insertion(model: type[models.Model]) -> tuple[str, str]:
    """The statement up to its rows, and the place of one row's values."""
    columns = [connection.ops.quote_name(str(field.column)) for field in model._meta.concrete_fields]
    table = connection.ops.quote_name(model._meta.db_table)
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608  names of ours
    return head, f"({', '.join(['%s'] * len(columns))})"


def _adapted(values: Sequence[object]) -> list[Any]:
    return [_adapt(value) for value in values]


def _adapt(value: object) -> Any:
    if isinstance(value, uuid.UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    if isinstance(value, date):
        return connection.ops.adapt_datefield_value(value)
    return value
