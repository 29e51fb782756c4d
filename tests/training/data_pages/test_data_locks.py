"""Two who change the same dataset at once wait for one another and never both: only PostgreSQL has locks for that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from tests.services import wait_until
from training import services, storage, tasks, work
from training.models import Dataset, DataWork, SourceFile
from webapp.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _postgresql() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite lets one transaction write at a time")


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.fixture
def looked_at(dataset: Dataset, source: SourceFile) -> DataWork:
    SourceFile.objects.filter(pk=source.pk).update(state=SourceFile.State.DETECTING, reading=None)
    return work.begin_work(dataset=dataset, kind=DataWork.Kind.DETECT, parameters={}, file=source)


def remove_file(dataset: Dataset, source: SourceFile, alice: User) -> None:
    services.remove_file(file=source)


def delete_dataset(dataset: Dataset, source: SourceFile, alice: User) -> None:
    services.delete_dataset(dataset=dataset, user=alice)


def cancel_look(looked_at: DataWork) -> None:
    work.cancel_work(work=looked_at)


def end_look(looked_at: DataWork) -> None:
    tasks.run(str(looked_at.pk))


@pytest.mark.parametrize("end", [end_look, cancel_look])
@pytest.mark.parametrize("remove", [remove_file, delete_dataset])
def test_what_is_removed_while_the_look_at_it_ends_is_gone_and_nobody_is_told_of_a_deadlock(
    remove: Callable[[Dataset, SourceFile, User], None],
    end: Callable[[DataWork], None],
    dataset: Dataset,
    source: SourceFile,
    looked_at: DataWork,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, row = storage.source_path(source), source.pk
    failures: list[BaseException] = []

    def run() -> None:
        try:
            end(looked_at)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    worker = threading.Thread(target=run)
    require_unused = services.require_unused

    def begun_to_remove(*given: Any) -> None:
        """With the lock, and before a row is."""
        require_unused(*given)
        worker.start()
        wait_until(lambda: somebody_waits_for_a_lock() or not worker.is_alive(), "the end of the look")
        assert worker.is_alive()

    monkeypatch.setattr(services, "require_unused", begun_to_remove)
    remove(dataset, source, alice)
    worker.join(30)
    assert failures == [record.message for record in caplog.records if record.exc_info] == []
    assert not SourceFile.objects.filter(pk=row).exists()
    assert not DataWork.objects.exists()
    assert not file.exists()
