"""What datasets, their reports and their versions look like to programs. All of it is Flywheel's own."""

from __future__ import annotations

from typing import Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from training.datasets.sources import Layout, Shape
from webapp.api.file_routes import File


class WorkError(Schema):
    code: str
    message: str


class Work(Schema):
    """Something a worker does, or did last."""

    status: Literal["queued", "running", "ready", "failed", "cancelled"]
    stage: str | None  # "reading", "profiling", ...
    percent: int | None  # of the stage
    error: WorkError | None


# --- Datasets ----------------------------------------------------------------------------------------------------
class NameDataset(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=120)


class Dataset(Schema):
    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    created_at: int
    updated_at: int
    files: int
    bytes: int
    versions: int  # that are frozen
    work: str | None  # what is being done with it: "detect", "report", "preview", "freeze"


class Datasets(Schema):
    object: Literal["list"] = "list"
    data: list[Dataset]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedDataset(Schema):
    id: str
    object: Literal["dataset"] = "dataset"
    deleted: Literal[True] = True


class Reading(Schema):
    """How a file is read: as it was found, or as somebody said."""

    model_config = ConfigDict(extra="forbid")

    layout: Layout
    shape: Shape
    encoding: str = Field("utf-8", max_length=40)
    delimiter: str = Field(",", pattern=r'^[^"\r\n\x00]$')
    within: str = Field("", max_length=300)  # of JSON: the list with the examples, where an object holds it
    sheet: str = Field("", max_length=100)
    header: bool = True
    columns: dict[str, str] = Field({}, max_length=50)  # what a field is called in this file


class DatasetFile(File):
    reading: Reading | None  # null where it cannot be read, or has not been looked at
    columns: list[str]  # of a table
    rows: list[dict[str, str]]  # the first, as they are shown
    notices: list[str]  # what to know before it is read so
    error: WorkError | None  # why it cannot be read


class DatasetFiles(Schema):
    object: Literal["list"] = "list"
    data: list[DatasetFile]
    has_more: bool = False


# --- Reports -----------------------------------------------------------------------------------------------------
class StartReport(Schema):
    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=200)  # whose tokens are counted; null: as the last time
    max_tokens: int | None = Field(None, ge=0, le=1_000_000)  # of an example; null: as the last time
    evaluation: str | None = Field(None, max_length=80)  # a version it is compared with


class Histogram(Schema):
    """`counts[i]` values lie in [edges[i], edges[i + 1])."""

    edges: list[float]
    counts: list[int]
    total: int
    mean: float
    median: float
    p95: float
    largest: float


class Count(Schema):
    name: str
    count: int


class ProblemCount(Schema):
    code: str
    severity: str  # an error's example is left out, a warning's stays
    count: int


class Found(Schema):
    """What a check found: see docs/data.md."""

    kind: str
    files: list[str]
    examples: int
    usable: int
    problems: list[ProblemCount]
    exact_duplicates: int
    near_duplicates: int
    overlap: int
    outliers: int
    personal_data: list[Count]
    languages: list[Count]
    languages_of: int
    labels: list[Count]  # the most frequent
    more_labels: int  # besides those
    target_model: str | None
    max_tokens: int
    tokens: Histogram | None
    trained_tokens: int
    too_long: int
    lost_tokens: int
    values: Histogram | None
    seconds: float


class Report(Schema):
    object: Literal["dataset.report"] = "dataset.report"
    dataset: str
    work: Work | None  # of the check that goes on, or was the last
    is_current: bool  # whether the files are still those that were found in
    created_at: int | None
    found: Found | None  # by the last check that came to its end


class Problem(Schema):
    id: str
    object: Literal["dataset.problem"] = "dataset.problem"
    code: str
    severity: str
    file: str
    line: int | None  # null: the file as a whole
    path: str
    excerpt: str
    reason: str
    remedy: str


class Problems(Schema):
    object: Literal["list"] = "list"
    data: list[Problem]
    has_more: bool


# --- Cleaning and versions -------------------------------------------------------------------------------------------
class RecipeBody(Schema):
    """Fields that are left out are as usual; docs/data.md has them all."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any] = {}


class Effect(Schema):
    step: str
    changed: int
    dropped: int
    added: int
    samples: list[tuple[str, str]]  # before and after
    splits: dict[str, int]  # of the last step: examples in each; else empty


class Cleaning(Schema):
    object: Literal["dataset.cleaning"] = "dataset.cleaning"
    dataset: str
    work: Work | None
    recipe: dict[str, Any] | None
    effects: list[Effect] | None  # null while they are being counted


class Version(Schema):
    id: str
    object: Literal["dataset.version"] = "dataset.version"
    dataset: str
    number: int
    created_at: int
    status: Literal["building", "ready", "failed"]
    work: Work | None
    recipe: dict[str, Any]
    kind: str | None
    content_hash: str | None
    train: int
    validation: int
    test: int
    labels: list[str]  # the first 1,000 of them
    effects: list[Effect]


class Versions(Schema):
    object: Literal["list"] = "list"
    data: list[Version]
    has_more: bool = False


class DeletedVersion(Schema):
    id: str
    object: Literal["dataset.version"] = "dataset.version"
    deleted: Literal[True] = True
