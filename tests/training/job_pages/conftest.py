"""What tests of the pages of fine-tunes share: data to learn from, a model to begin with, jobs."""

from __future__ import annotations

import pytest

from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn, dataset, dora, home, logged_in, report, source
from tests.training.job_pages.rows import make_base, make_job, make_version
from training.models import Dataset, DatasetVersion, Job
from webapp.accounts.models import User, Workspace

__all__ = ["LogIn", "dataset", "dora", "home", "logged_in", "report", "source"]


@pytest.fixture
def base(db: None) -> ServedModel:
    return make_base()


@pytest.fixture
def version(dataset: Dataset) -> DatasetVersion:
    return make_version(dataset)


@pytest.fixture
def job(workspace: Workspace, alice: User, base: ServedModel, version: DatasetVersion) -> Job:
    """One that waits."""
    return make_job(workspace, alice, base, version)
