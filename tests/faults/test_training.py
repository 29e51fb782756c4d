"""A machine that dies while a model is being trained on it: the job goes on, and ends as if nothing had been."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import openai
import pytest

from tests.conftest import new_site
from tests.services import REAL, Site, wait_until
from tests.webapp.api.live_clients import key_of, openai_client
from training.trainer_process import marked

# Each trainer imports torch: seconds, and minutes on a machine that has other things to do.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600), pytest.mark.one_database]
WORDS = ("the wheel turns", "a river runs", "some birds sing", "every road ends", "our lamp burns")
TEXT = "\n\n".join(
    f"{n}. Today {WORDS[n % 5]}, and tomorrow {WORDS[n * n % 5]} {n} times." for n in range(400)
)
ASKED: dict[str, Any] = {
    "size": 1, "max_steps": 120, "checkpoint_every": 20, "max_length": 64, "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def site() -> Iterator[Site]:
    """With the demo model, in whose tokens lengths are counted."""
    site = new_site()
    try:
        site.start(model=REAL)
        site.create_owner()
        site.start_data()
        site.start_training()
        yield site
    finally:
        site.stop()


def begin(client: openai.OpenAI, file_id: str) -> str:
    job = client.fine_tuning.jobs.create(
        model="scratch",
        training_file=file_id,
        seed=7,
        hyperparameters={"batch_size": 4},
        extra_body={"flywheel": ASKED},
    )
    return job.id


def losses(client: openai.OpenAI, job_id: str) -> str:
    """What a person can download of a job that has succeeded."""

    def ended() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.error is None or not job.error.message, job.error
        return job if job.status == "succeeded" else None

    [file] = wait_until(ended, "the job to succeed", 400, every=0.2).result_files
    return client.files.content(file).text


def test_a_job_whose_machine_dies_ends_with_the_losses_of_one_that_nothing_happened_to(
    site: Site,
) -> None:
    client = openai_client(site, key_of(site))
    file = client.files.create(file=("book.txt", TEXT.encode()), purpose="fine-tune")
    expected = losses(client, begin(client, file.id))
    job_id = begin(client, file.id)

    def has_saved() -> bool:
        return bool(client.fine_tuning.jobs.checkpoints.list(job_id).data)

    wait_until(has_saved, "a checkpoint", 200)
    site.training.kill()
    for trainer in marked(str(UUID(job_id.removeprefix("ftjob-")))):
        trainer.kill()  # which otherwise hears that its worker died, and saves
    for service in site.services:
        service.kill()
    site.heal()
    site.start_data()
    site.start_training()
    assert losses(client, job_id) == expected
    said = [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]
    # From where it had saved, or had just time to when it heard that its worker was gone.
    [began] = [
        int(found[1]) for each in said if (found := re.fullmatch(r"It goes on from step (\d+)\.", each))
    ]
    assert 20 <= began < 120
