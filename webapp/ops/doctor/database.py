"""The database: whether it lets us in, is new enough, keeps what it is given, and has our schema.

One that is away is waited for; what waiting does not mend is refused at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db import DatabaseError, NotSupportedError, OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from webapp.ops import schema
from webapp.ops.doctor.clock import skew
from webapp.ops.doctor.finding import Finding, Level, first_line, ok, problem, refusal, warning

CONNECT_SECONDS = 2  # less is not possible (libpq)
# What a server or its client says of a connection that no waiting will bring about, and what to do.
_FOR_GOOD = (
    ("certificate", "Name the authority that signed it: postgres://...?sslmode=verify-full&sslrootcert=/path/of/ca.pem"),
    ("password authentication failed", "Correct the user and password in DATABASE_URL."),
    ("no password supplied", "Give the password in DATABASE_URL, or in the file that DATABASE_URL_FILE names."),
    ("does not exist", "Create it, or correct DATABASE_URL."),
    ("no pg_hba.conf entry", "Let this machine in, in the server's pg_hba.conf."),
    ("does not support SSL", "Turn its TLS on, or take sslmode out of DATABASE_URL."),
    ("unable to open database file", "Set FLYWHEEL_HOME or DATABASE_URL to a folder that exists and that you own."),
    ("readonly database", "Give this user the right to write the file and its folder."),
    ("file is not a database", "DATABASE_URL names a file that is something else: correct it, or restore a backup."),
    ("malformed", "The file is damaged: restore a backup."),
)  # fmt: skip
# What PostgreSQL says where as many are connected as may be.
_FULL = ("too many clients", "too many connections", "remaining connection slots")


def look() -> None:
    """Whether it answers, known soon: of a server that is away the pool hears after ten seconds, each time it is asked.

    Raises DatabaseError where it does not.
    """
    own = _connection_of_its_own() if connection.vendor == "postgresql" else None
    try:
        with (own or connection).cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        # One that has no room for another connection answers those who have one.
        if not any(words in str(error) for words in _FULL):
            raise
    finally:
        if own is not None:
            own.close()


def check() -> Iterator[Finding]:
    """Without the schema, which a process that migrates looks at otherwise."""
    own = _connection_of_its_own()
    try:
        with own.cursor() as cursor:
            cursor.execute("SELECT 1")
            yield from _sqlite(own) if own.vendor == "sqlite" else _postgresql(own)
    except NotSupportedError as error:
        # Django's own sentence: "PostgreSQL 14 or later is required (found 13.4)."
        yield refusal("database", f"The database is too old: {first_line(error)}", "Upgrade it.")
    except DatabaseError as error:
        said = first_line(error)
        for words, advice in _FOR_GOOD:
            if words in str(error):
                yield refusal("database", f"The database cannot be used: {said}", advice)
                return
        yield problem(
            "database", f"The database does not answer: {said}", "Start it, or correct DATABASE_URL."
        )
    else:
        yield ok("database", f"The database ({own.vendor}) answers.")
    finally:
        own.close()


def current_schema() -> Iterator[Finding]:
    try:
        missing = schema.pending()
        unknown = [] if missing else schema.unknown()
    except DatabaseError:
        return  # said already
    if missing:
        yield problem(
            "database", f"{len(missing)} migrations are missing.", "Run: python manage.py migrate_locked"
        )
    elif unknown:
        yield problem("database", schema.newer(unknown), schema.NEWER_ADVICE)
    else:
        yield ok("database", "The schema is current.")


def unusable(findings: Iterable[Finding] | None = None) -> str | None:
    """Why a query failed, and what to do, where it was the database; None where that answers as it should."""
    for finding in check() if findings is None else findings:
        if finding.level is Level.PROBLEM:
            return f"{finding.sentence.rstrip('.')}. {finding.advice}"
    return None


def wrong() -> str | None:
    """As `unusable`, the schema included."""
    return unusable() or unusable(current_schema())


def _connection_of_its_own() -> BaseDatabaseWrapper:
    """A server that is down is a finding at once, with its reason: the pool would try again for ten seconds."""
    own = connection.copy()
    answer_soon(own)
    return own


def answer_soon(unused: BaseDatabaseWrapper) -> None:
    """From now on this connection is no pool's, and is not waited for."""
    if unused.vendor == "postgresql":
        options = unused.settings_dict["OPTIONS"]
        options.pop("pool", None)
        options.setdefault("connect_timeout", CONNECT_SECONDS)


def _sqlite(own: BaseDatabaseWrapper) -> Iterator[Finding]:
    with own.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
        if mode not in ("wal", "memory"):
            yield problem(
                "database",
                f"SQLite's journal is {mode} instead of WAL, so readers and writers block each other.",
                "Keep FLYWHEEL_HOME on a local disk, not on a network share.",
            )
        # Takes the write lock and gives it back: a file or a folder that may only be read is found now.
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        except OperationalError as error:
            if "locked" not in str(error):  # somebody writes, so it can be written
                raise


def _postgresql(own: BaseDatabaseWrapper) -> Iterator[Finding]:
    with own.cursor() as cursor:
        cursor.execute(
            "SELECT pg_is_in_recovery(), current_setting('max_connections')::int,"
            " extract(epoch FROM clock_timestamp())::float8, pg_encoding_to_char(encoding), current_database(),"
            " current_user"
            " FROM pg_database WHERE datname = current_database()"
        )
        is_standby, most, seconds, encoding, name, user = cursor.fetchone()
    if is_standby:
        yield refusal("database", "The database is a standby, which takes no writes.", "Name its primary.")
    if encoding != "UTF8":
        yield refusal(
            "database",
            f"The database's encoding is {encoding}, which cannot hold what people write.",
            f'Drop it, after a backup where it holds something, and create it anew: CREATE DATABASE "{name}" '
            f"OWNER \"{user}\" ENCODING 'UTF8' TEMPLATE template0",
        )
    pool = settings.DATABASES["default"].get("OPTIONS", {}).get("pool")
    # Of each web process and each worker; four kinds of worker, and one beat that has none.
    needed = (settings.WEB_PROCESSES + 4) * pool["max_size"] if isinstance(pool, dict) else 0
    if needed > most:
        yield warning(
            "database",
            f"The database takes {most} connections; this site may want {needed} of them.",
            "Raise max_connections, or put PgBouncer in front in session mode.",
        )
    yield from skew("database", "The database's", seconds)
