"""Statements written by hand, for the few that stand between a message and its answer. Knows no model of ours.

Putting a simple query together costs Django ten times what the database takes to answer it
(docs/decisions/0004-statements-by-hand.md). The text is the same for SQLite and PostgreSQL; values are placeholders.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

M = TypeVar("M", bound=models.Model)


def fetch(sql: str, *values: object) -> list[tuple[Any, ...]]:
    """All rows, each column as the driver gives it (a UUID as text on SQLite)."""
    connection = _connection()
    with _cursor(connection) as cursor:
        cursor.execute(sql, _adapted(values, connection))
        return cursor.fetchall()


def execute(sql: str, *values: object) -> int:
    """The number of rows changed."""
    connection = _connection()
    with _cursor(connection) as cursor:
        cursor.execute(sql, _adapted(values, connection))
        return cursor.rowcount


def instances(model: type[M], sql: str, *values: object) -> list[M]:
    """Rows that have the model's columns, as the ORM would give them; other columns are attributes besides.

    `sql` has {columns} where the model's stand, by their names: what is prepared outlives a migration that adds some.
    """
    connection = _connection()
    with _cursor(connection) as cursor:
        cursor.execute(
            sql.format(columns=_columns(((model._meta.db_table, model),))), _adapted(values, connection)
        )
        part = _part(connection.vendor, model, tuple(column[0] for column in cursor.description))
        return [part.build(row) for row in cursor.fetchall()]


def joined(models_: Mapping[str, type[models.Model]], rest: str, *values: object) -> list[list[Any]]:
    """Rows of several models at once, of each row its instances. `models_` are by the names that `rest`, which begins
    with FROM, gives their tables."""
    connection = _connection()
    parts = [_part(connection.vendor, model) for model in models_.values()]
    with _cursor(connection) as cursor:
        cursor.execute(f"SELECT {_columns(tuple(models_.items()))} {rest}", _adapted(values, connection))
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
        ours = {field.column for field in fields}
        # Columns of no field become attributes, as they come.
        self._others = [(at, column) for at, column in enumerate(columns) if column not in ours]
        self._converters = []
        connection = _connection()
        for at, field in enumerate(fields):
            column = field.get_col(model._meta.db_table)
            convert = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
            if convert:
                self._converters.append((at, column, convert))

    def build(self, row: Sequence[Any]) -> Any:
        connection = _connection()
        values = [row[place] for place in self._places]
        for at, column, convert in self._converters:
            for converter in convert:
                values[at] = converter(values[at], column, connection)
        instance = self._model.from_db(connection.alias, self.names, values)
        for at, name in self._others:
            instance.__dict__[name] = row[at]
        return instance


@cache
def _part(vendor: str, model: type[models.Model], columns: tuple[str, ...] | None = None) -> _Part:
    return _Part(model, columns or [str(field.column) for field in model._meta.concrete_fields])


@cache
def _columns(models_: tuple[tuple[str, type[models.Model]], ...]) -> str:
    return ", ".join(
        f"{name}.{field.column}" for name, model in models_ for field in model._meta.concrete_fields
    )


def insert(rows: Sequence[models.Model]) -> None:
    """New rows of one model, all with their primary keys, in one statement: as bulk_create leaves them."""
    connection = _connection()
    plan = _insertion(connection.vendor, type(rows[0]))
    values = []
    for row in rows:
        for field, is_json, is_automatic in plan.fields:
            value = field.pre_save(row, add=True) if is_automatic else getattr(row, field.attname)
            values.append(field.get_db_prep_save(value, connection) if is_json else _adapt(value, connection))
    with _cursor(connection) as cursor:
        cursor.execute(plan.head + ", ".join([plan.places] * len(rows)), values)
    for row in rows:
        row._state.adding, row._state.db = False, connection.alias


def update(model: type[models.Model], where: Mapping[str, object], values: Mapping[str, object]) -> int:
    """Sets these fields where those have these values; the number of rows. Fields by the names of their attributes, as
    `worker_id`."""
    connection = _connection()
    statement, json_fields = _change(model, tuple(where), tuple(values))
    given = [
        json_fields[name].get_db_prep_save(value, connection)
        if name in json_fields
        else _adapt(value, connection)
        for name, value in values.items()
    ]
    with _cursor(connection) as cursor:
        cursor.execute(statement, [*given, *_adapted([*where.values()], connection)])
        return cursor.rowcount


@cache
def _change(
    model: type[models.Model], where: tuple[str, ...], names: tuple[str, ...]
) -> tuple[str, dict[str, models.JSONField]]:
    fields = {field.attname: field for field in model._meta.concrete_fields}
    changes = ", ".join(f"{fields[name].column} = %s" for name in names)
    conditions = " AND ".join(f"{fields[name].column} = %s" for name in where)
    json_fields = {name: field for name in names if isinstance(field := fields[name], models.JSONField)}
    return f"UPDATE {model._meta.db_table} SET {changes} WHERE {conditions}", json_fields  # noqa: S608 - names of ours


class _Insertion(NamedTuple):
    head: str
    places: str  # of one row's values
    fields: list[tuple[models.Field[Any, Any], bool, bool]]  # whether it is JSON, whether it fills itself


@cache
def _insertion(vendor: str, model: type[models.Model]) -> _Insertion:
    fields = model._meta.concrete_fields
    columns = ", ".join(str(field.column) for field in fields)
    return _Insertion(
        f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ",  # noqa: S608 - names of ours
        f"({', '.join(['%s'] * len(fields))})",
        [
            (
                field,
                isinstance(field, models.JSONField),
                isinstance(field, models.DateField) and (field.auto_now or field.auto_now_add),
            )
            for field in fields
        ],
    )


def _connection() -> BaseDatabaseWrapper:
    """This thread's. (Each look at django.db.connection is a search for it.)"""
    return connections[DEFAULT_DB_ALIAS]


def _cursor(connection: BaseDatabaseWrapper) -> Any:
    """Where the server keeps statements prepared, one whose are: planning them takes it longer than their answers."""
    cursor = getattr(connection, "prepared_cursor", connection.cursor)
    return cursor()


def _adapted(values: Sequence[object], connection: BaseDatabaseWrapper) -> list[Any]:
    return [_adapt(value, connection) for value in values]


def _adapt(value: object, connection: BaseDatabaseWrapper) -> Any:
    if isinstance(value, uuid.UUID):
        return value if connection.features.has_native_uuid_field else value.hex
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    if isinstance(value, date):
        return connection.ops.adapt_datefield_value(value)
    return value.value if isinstance(value, Enum) else value
