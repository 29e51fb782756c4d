"""What is known of a dataset before anything is done to it. Knows nothing of how it is found or shown."""

from __future__ import annotations

import msgspec


class Histogram(msgspec.Struct):
    """`counts[i]` values lie in [edges[i], edges[i + 1])."""

    edges: list[float]
    counts: list[int]
    total: int  # of all values
    mean: float
    median: float
    p95: float
    largest: float


class Count(msgspec.Struct):
    name: str
    count: int


class PreviewToken(msgspec.Struct):
    text: str
    trained: bool
    lost: bool = False  # beyond the longest example


class Report(msgspec.Struct, omit_defaults=True):
    kind: str  # of examples: see examples.Kind
    files: list[str]
    read: int  # examples found
    usable: int  # of them, without an error
    problems: list[Count]  # by code, exact, the most first
    severities: dict[str, str]  # of each code
    exact_duplicates: int  # examples that repeat an earlier one
    near_duplicates: int  # examples that nearly repeat an earlier one, exact ones not counted again
    overlap: int  # examples that are also in the evaluation data it was compared with
    personal_data: list[Count]  # examples with an email address, a telephone number, ...
    languages: list[Count]  # of `languages_of` examples; of translations "de → en"
    labels: list[Count]  # the most frequent
    outliers: int
    tokens: Histogram | None  # of each example, in the target model's tokens; None without a model
    trained_tokens: int  # those that are learnt
    too_long: int  # examples over the length
    lost_tokens: int  # trained tokens beyond it
    previews: list[list[PreviewToken]]
    target_model: str = ""
    max_tokens: int = 0
    seconds: float = 0.0
    languages_of: int = 0  # examples whose language was looked for: all of them, or an even sample
    more_labels: int = 0  # besides those
    values: Histogram | None = None  # of the numbers that are to be predicted, where labels are numbers
