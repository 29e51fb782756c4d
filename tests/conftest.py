"""Shared fixtures. The cast: Alice owns a workspace, Bob is on her team, Charlie is an outsider with his own.
The services: a broker for every test, and whole live sites for those that ask.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from unittest import mock

import pytest
from django.conf import settings
from django.core.management.commands.migrate import Command as Migrate
from django.db import connection
from django.test import TransactionTestCase
from django.utils import translation
from pytest_django import DjangoDbBlocker
from redis import Redis
from whitenoise.middleware import WhiteNoiseMiddleware

from inference.models import ServedModel
from tests.demo_model import demo_model
from tests.emptied import empty_tables
from tests.everything import COMPUTING
from tests.gemma_model import gemma_model
from tests.live_site import LiveSite
from tests.migrated import filled
from tests.postgres import create_database
from tests.services import REAL, Site, Valkey
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.core import clock


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice@example.org", "correct horse 1", name="Alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob@example.org", "correct horse 2", name="Bob")


@pytest.fixture
def charlie(db: None) -> User:
    return User.objects.create_user("charlie@example.org", "correct horse 3", name="Charlie")


@pytest.fixture
def workspace(alice: User, bob: User) -> Workspace:
    """Alice's: she is the owner, Bob a member."""
    workspace = Workspace.objects.create(name="Acme")
    Membership.objects.create(workspace=workspace, user=alice, role=Role.OWNER)
    Membership.objects.create(workspace=workspace, user=bob, role=Role.MEMBER)
    return workspace


@pytest.fixture
def model(db: None) -> ServedModel:
    """What the site answers with, where nobody has chosen."""
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


@pytest.fixture
def elsewhere(charlie: User) -> Workspace:
    """Charlie's own workspace."""
    workspace = Workspace.objects.create(name="Elsewhere")
    Membership.objects.create(workspace=workspace, user=charlie, role=Role.OWNER)
    return workspace


@pytest.fixture(autouse=True)
def _in_english() -> None:
    """A socket or a page of the test before may have spoken another language."""
    translation.activate("en")


@pytest.fixture(autouse=True)
def _nobody_has_set_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test before may have: for a while after that nobody is judged. Nor is this process so young that nothing may
    be deleted yet."""
    monkeypatch.setattr(clock, "_asked", None)
    monkeypatch.setattr(clock, "_jumped_at", float("-inf"))
    monkeypatch.setattr(clock, "_watched_since", float("-inf"))


def pytest_configure(config: pytest.Config) -> None:
    # A test run that is told to end still reaps its processes, which its exit handlers do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


# Collecting imports all tests, and looking for garbage in what that makes would take another half as long; so would
# taking it all apart at the end.
gc.disable()
atexit.register(gc.freeze)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Loading a model collects garbage. Of all objects of this suite and what it imports that takes 0.3 s, a hundred
    times as long as loading a tiny model; what has been there since before the module began is left alone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _static_files_are_found_once() -> Iterator[None]:
    """Each test's client has middleware of its own, and WhiteNoise's looks at a hundred files to begin with: that was a
    sixth of what tests of pages took."""
    find = WhiteNoiseMiddleware.add_files_from_finders
    found: dict[str, object] = {}

    def add(self: WhiteNoiseMiddleware) -> None:
        if not found:
            find(self)
            found.update(self.files)
        self.files.update(found)

    with mock.patch.object(WhiteNoiseMiddleware, "add_files_from_finders", add):
        yield


@pytest.fixture(scope="session", autouse=True)
def _committed_rows_are_deleted() -> Iterator[None]:
    with mock.patch.object(TransactionTestCase, "_fixture_teardown", empty_tables):
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
) -> Iterator[None]:
    """The schema of the database that tests share comes from where other sites copy theirs."""
    migrate = Migrate.handle

    def handle(command: Migrate, *args: object, **options: object) -> None:
        once.stop()  # a test that migrates does
        if not filled(connection):
            migrate(command, *args, **options)

    once = mock.patch.object(Migrate, "handle", handle)
    once.start()
    yield
    once.stop()


# --- Services ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="session", autouse=True)
def _database_of_live_sites(django_db_blocker: DjangoDbBlocker) -> None:
    LiveSite.unblocked = django_db_blocker.unblock  # type: ignore[assignment]


@pytest.fixture(scope="session")
def _session_broker() -> Iterator[Valkey]:
    valkey = Valkey(settings.FLYWHEEL_HOME / "broker", settings.TEST_BROKER_PORT).start()
    yield valkey
    valkey.kill()


@pytest.fixture(scope="session")
def _broker_client(_session_broker: Valkey) -> Iterator[Redis]:
    """One for all tests: making a client takes longer than emptying the broker."""
    with _session_broker.client() as client:
        yield client


@pytest.fixture(autouse=True)
def broker(_session_broker: Valkey, _broker_client: Redis) -> Valkey:
    """The broker at settings.REDIS_URL, empty and alive whatever the last test did to it."""
    if not _session_broker.alive:
        _session_broker.start()
    _broker_client.flushall()
    return _session_broker


def new_site(**options: object) -> Site:
    """A site with a database of its own, on the server the test run uses."""
    server = settings.TEST_SERVER
    return Site(database_url=create_database(server) if server else None, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def _session_site() -> Iterator[Site]:
    site = new_site(environment={"LOG_FORMAT": "json"})
    try:
        site.start()
        site.create_owner()
        yield site
    except Exception:
        warnings.warn(site.log_tails(), stacklevel=1)
        raise
    finally:
        site.stop()


@pytest.fixture
def live_site(_session_site: Site) -> Site:
    """A whole site with the scripted engine, Alice as its owner and logs in JSON; what the last test killed is back."""
    _session_site.heal()
    return _session_site


@pytest.fixture(scope="session")
def demo_model_folder() -> Path:
    """The folder of the real demo model, fetched once for all runs."""
    return demo_model()


@pytest.fixture(scope="session")
def gemma_model_file() -> Path:
    """Gemma 3 270M as a GGUF, fetched once for all runs."""
    return gemma_model()


@pytest.fixture(scope="session")
def _session_model_site() -> Iterator[Site]:
    site = new_site(engine=REAL)
    try:
        site.start()
        site.create_owner()
        yield site
    finally:
        site.stop()


@pytest.fixture
def model_site(_session_model_site: Site) -> Site:
    """A whole site that answers with the demo model, and Alice as its owner."""
    _session_model_site.heal()
    return _session_model_site


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database-only", action="store_true", help="only tests that ask a database, for a second one"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _asks_a_database(item) and item.nodeid.startswith(COMPUTING):
            raise pytest.UsageError(
                f"{item.nodeid} asks a database: it belongs where tests run on each of them."
            )
    if config.getoption("--database-only"):
        others = [item for item in items if not _worth_a_second(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _worth_a_second(item)]


def _asks_a_database(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    if "postgres_server" in fixtures:
        return False  # has one of its own in every run
    asks = any(name == "db" or name.endswith("site") for name in fixtures)
    return asks or item.get_closest_marker("django_db") is not None


def _worth_a_second(item: pytest.Item) -> bool:
    """Whether it may go otherwise on another database. What the demo model says goes through the rows that the scripted
    engine's words go through, in the same modules."""
    if item.get_closest_marker("one_database") or "_session_model_site" in getattr(item, "fixturenames", ()):
        return False
    return _asks_a_database(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, object, object]:
    """A failed test of a live site shows what its processes said."""
    report = yield
    if isinstance(report, pytest.TestReport) and report.failed:
        for value in {id(each): each for each in getattr(item, "funcargs", {}).values()}.values():
            if isinstance(value, LiveSite):
                report.sections.append(("Processes of the live site", value.log_tails()))
    return report
