"""What a worker of datasets has ready before anybody asks it for a report."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import py3langid.langid
import pytest

from inference.models import ServedModel
from tests.services import wait_until
from tests.training.datasets.records import model_folder
from training import services, storage, tasks
from training.datasets import languages, measure
from training.models import Dataset, DataWork, SourceFile

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    measure._opened.cache_clear()
    languages.open_classifier.cache_clear()
    monkeypatch.setattr(py3langid.langid, "IDENTIFIER", None)


def begins(queue: str) -> None:
    queues = SimpleNamespace(consume_from={queue: None})
    # Not by its signal, which others listen to, who want a broker.
    tasks._be_quick_from_the_first(SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=queues))))
    warming = [each for each in threading.enumerate() if each.name == "warming"]
    wait_until(lambda: not any(each.is_alive() for each in warming), "whatever it opens")


def test_the_first_report_of_a_worker_opens_no_more_than_the_second(
    dataset: Dataset, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ServedModel.objects.create(
        name="tiny", path=str(model_folder(tmp_path / "tiny")), digest="0" * 64, architecture="llama",
        context_length=1024, parameters=1, size_bytes=1, is_default=True,
    )  # fmt: skip
    storage.source_path(source).write_text(
        '{"text": "Long enough to be in some language.", "label": "long"}\n'
    )
    begins("data")

    def never(*_: object) -> None:
        raise AssertionError("opened while somebody waits")

    monkeypatch.setattr(measure, "open_text_model", never)
    monkeypatch.setattr(py3langid.langid, "_load_model_file", never)
    report = services.start_report(dataset=dataset, **services.report_defaults(None))  # type: ignore[arg-type]
    tasks.run(str(report.pk))
    report.refresh_from_db()
    assert (report.state, report.error_message) == (DataWork.State.READY, "")
    assert report.parameters["model"] == "tiny"


@pytest.mark.parametrize("queue", ["default", "training"])
def test_workers_of_other_queues_open_nothing(queue: str) -> None:
    begins(queue)
    assert py3langid.langid.IDENTIFIER is None
