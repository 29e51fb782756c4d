"""What is known of a dataset before anything is done to it. Knows nothing of how the records were read.

Every example is looked at once, part by part in processes of their own (`measure`); what needs all of them together,
duplicates and outliers, is found here from the few hundred bytes that are kept of each.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from training.datasets.arrays import load, load_apart, load_fingerprints
from training.datasets.aside import disk_full, write_aside
from training.datasets.codes import shown
from training.datasets.conflicts import find_conflicts
from training.datasets.duplicates import find_duplicates, find_overlap
from training.datasets.evaluation import evaluation_fingerprints
from training.datasets.examples import Example, LabelledExample
from training.datasets.findings import CODES, name_of, problem_with, severity_of
from training.datasets.fingerprints import Fingerprints
from training.datasets.histogram import histogram_of
from training.datasets.measure import Measured, Piece, measure, open_encoder
from training.datasets.outliers import find_outliers
from training.datasets.parallel import run_all
from training.datasets.problems import DataError, Problem
from training.datasets.progress import Progress, silent
from training.datasets.reading import ReadSummary
from training.datasets.report import Count, PreviewToken, Report
from training.datasets.shards import Index, parts_of
from training.datasets.texts import as_read
from training.datasets.token_preview import token_preview
from training.encoding import Encoded

MOST_PROBLEMS = 1000  # listed of each code; counts are exact
MOST_LABELS = 500  # listed: a column of whatever is different in every row may be taken for labels
_PREVIEWS = 10
_RARE = 5  # examples of a label: with fewer there are none, often, to judge by
# One in so many examples is asked for its language that about so much is looked at.
_LANGUAGE_BYTES = 20 * 2**20


def profile(
    folder: Path,
    *,
    model: Path | None,
    max_tokens: int,
    evaluation: Sequence[Path] = (),
    files: Sequence[str] = (),
    read: ReadSummary | None = None,
    progress: Progress = silent,
    processes: int = 2,
) -> Report:
    """Of `folder/records`; written to `folder/report.json`, and what is wrong is added to `folder/problems.jsonl`.

    `max_tokens`: what is longer is too long; 0: nothing is. `evaluation`: files of frozen splits, and records folders.
    `files`: what the person called the sources. `read`: what reading them found, which the report then has too.
    Raises DataError `model_unreadable`, `mixed_kinds`, `dataset_broken`, `disk_full`, `worker_lost`.
    """
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="profile-") as scratch:
            pieces = _pieces(folder / "records", Path(scratch), model, max_tokens, list(files))
            total = sum(piece.part.size for piece in pieces)
            measured = run_all(
                measure,
                pieces,
                stage="profiling",
                total=total,
                processes=processes,
                progress=progress,
                reads=[folder, model] if model is not None else [folder],
                writes=[Path(scratch)],
            )
            whole = _Whole(pieces, measured, evaluation_fingerprints(evaluation, progress))
            progress("comparing", 1, 1)
            report = whole.report(model, max_tokens)
            _list_problems(folder / "problems.jsonl", whole.problems())
    except OSError as error:
        raise disk_full(error) or error from error
    if read is not None:
        _add_reading(report, read)
    report.seconds = time.monotonic() - started
    write_aside(folder / "report.json", msgspec.json.encode(report))
    return report


def _pieces(
    records: Path, scratch: Path, model: Path | None, max_tokens: int, files: list[str]
) -> list[Piece]:
    parts = parts_of(records)
    size = sum(part.size for part in parts)
    return [
        Piece(
            part=part,
            into=str(scratch / f"{number:05}.npz"),
            files=files,
            model=str(model) if model else "",
            max_tokens=max_tokens,
            language_of_one_in=1 + size // _LANGUAGE_BYTES,
            most_problems=MOST_PROBLEMS,
        )
        for number, part in enumerate(parts)
    ]


class _Whole:
    """All examples together, from what was kept of each."""

    def __init__(self, pieces: list[Piece], measured: list[Measured], others: Fingerprints) -> None:
        self._pieces, self._measured = pieces, measured
        self._files = pieces[0].files
        self._arrays = [Path(piece.into) for piece in pieces]
        prints = load_fingerprints(self._arrays)
        self._duplicates = find_duplicates(prints)
        self._overlap = find_overlap(prints, others)
        self._rows = len(prints)
        del prints
        self._outliers = find_outliers(load(self._arrays, "features"))
        offsets = load_apart(self._arrays, "offsets")
        self._index = Index([piece.part for piece in pieces], offsets)
        self._conflicts = find_conflicts(*load(self._arrays, "labelled").T)
        self._rare = self._rare_labels([len(some) for some in offsets])

    def report(self, model: Path | None, max_tokens: int) -> Report:
        """Raises DataError `mixed_kinds`."""
        kinds = self._counted("kinds")
        if len(kinds) > 1:
            raise DataError(
                "mixed_kinds",
                f"A dataset holds examples of one kind, and this one has {' and '.join(sorted(kinds))}.",
            )
        labels = _most_first(self._counted("labels"))
        tokens, trained = (load(self._arrays, name) for name in ("tokens", "trained"))
        found = {code: int(mask.sum()) for code, mask in self._masks()}
        found |= {"rare_label": len(self._rare), "conflicting_labels": len(self._conflicts[0])}
        problems = self._counted("problems") + Counter(found)
        return Report(
            kind=next(iter(kinds), ""),
            files=self._files,
            read=self._rows,
            usable=self._rows,
            problems=_most_first(problems),
            severities={code: severity_of(code) for code in problems},
            exact_duplicates=int(self._duplicates.exact.sum()),
            near_duplicates=int(self._duplicates.near.sum()),
            overlap=int(self._overlap.sum()),
            personal_data=_most_first(self._counted("personal")),
            languages=_most_first(self._counted("languages")),
            labels=labels[:MOST_LABELS],
            more_labels=max(0, len(labels) - MOST_LABELS),
            outliers=int(self._outliers.sum()),
            tokens=histogram_of(tokens),
            trained_tokens=int(trained.sum()),
            too_long=problems["too_long"],
            lost_tokens=sum(some.lost_tokens for some in self._measured),
            previews=self._previews(model, max_tokens) if model else [],
            target_model=model.name if model else "",
            max_tokens=max_tokens,
            languages_of=self._counted("languages").total(),
            values=histogram_of(load(self._arrays, "values")),
        )

    def problems(self) -> Iterator[Problem]:
        """At most MOST_PROBLEMS of each code, in an order that depends on the data alone."""
        listed: Counter[str] = Counter()
        for file in self._arrays:
            with file.with_suffix(".jsonl").open("rb") as lines:
                for line in lines:
                    problem = msgspec.json.decode(line, type=Problem)
                    listed[problem.code] += 1
                    if listed[problem.code] <= MOST_PROBLEMS:
                        yield problem
        for code, mask in self._masks():
            for row in np.flatnonzero(mask)[:MOST_PROBLEMS].tolist():
                reason = ""
                if code in ("exact_duplicate", "near_duplicate"):
                    first = self._duplicates.same if code == "exact_duplicate" else self._duplicates.cluster
                    other = self._index.record(int(first[row]))
                    name = name_of(other, self._files)
                    same = f"It is the same as {name}, line {other.line}."
                    alike = f"It is nearly the same as {name}, line {other.line}."
                    reason = same if code == "exact_duplicate" else alike
                yield problem_with(self._index.record(row), self._files, code, reason=reason)

        for row, other in islice(
            zip(*(rows.tolist() for rows in self._conflicts), strict=True), MOST_PROBLEMS
        ):
            record, earlier = self._index.record(row), self._index.record(other)
            place = f"{name_of(earlier, self._files)}, line {earlier.line}"
            labels, others = _labels_of(record.example), _labels_of(earlier.example)
            reason = f"The same text is {others} in {place}, and {labels} here."
            yield problem_with(record, self._files, "conflicting_labels", reason=reason, path="label")
        for label, count, row in self._rare[:MOST_PROBLEMS]:
            reason = f"Examples with the label “{shown(label, 80)}”: {count}. That is too few to learn it and to judge."
            yield problem_with(
                self._index.record(row), self._files, "rare_label", reason=reason, path="label"
            )

    def _rare_labels(self, rows: list[int]) -> list[tuple[str, int, int]]:
        """Each with how many examples have it, and the first of them; in their order. `rows`: of each part."""
        first: dict[str, int] = {}
        for begin, some in zip(np.cumsum([0, *rows]).tolist(), self._measured, strict=False):
            for label, row in some.labels_first.items():
                first.setdefault(label, begin + row)
        counts = self._counted("labels")
        rare = [
            (label, counts[label], row) for label, row in first.items() if label and counts[label] < _RARE
        ]
        return sorted(rare, key=lambda found: (found[2], found[0]))

    def _masks(self) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        return [
            ("exact_duplicate", self._duplicates.exact),
            ("near_duplicate", self._duplicates.near),
            ("in_evaluation_data", self._overlap),
            ("outlier", self._outliers),
        ]

    def _counted(self, name: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for measured in self._measured:
            total.update(getattr(measured, name))
        return total

    def _previews(self, model: Path, max_tokens: int) -> list[list[PreviewToken]]:
        """Of examples from all over the dataset."""
        opened, encoder = open_encoder(str(model))
        step = max(1, self._rows // _PREVIEWS)
        examples = [
            as_read(self._index.record(row).example) for row in range(0, self._rows, step)[:_PREVIEWS]
        ]
        encodings = encoder.encode_all(examples)
        return [token_preview(e, opened.tokenizer, max_tokens) for e in encodings if isinstance(e, Encoded)]


def _labels_of(example: Example) -> str:
    labels = [label for label in example.labels if label] if isinstance(example, LabelledExample) else []
    return ", ".join(f"“{shown(label, 80)}”" for label in labels[:5]) or "without a label"


def _add_reading(report: Report, read: ReadSummary) -> None:
    counts = Counter({problem.name: problem.count for problem in report.problems}) + Counter(read.problems)
    report.kind, report.read, report.usable = read.kind, read.read, read.usable
    report.problems = _most_first(counts)
    report.severities |= read.severities


def _most_first(counts: Counter[str]) -> list[Count]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Count(name, count) for name, count in ordered if count]


def _list_problems(file: Path, found: Iterator[Problem]) -> None:
    """After those of reading; an earlier profile's make place."""
    read: list[Problem] = []
    if file.exists():
        read = [msgspec.json.decode(line, type=Problem) for line in file.read_bytes().splitlines()]
    kept = (problem for problem in read if problem.code not in CODES)
    write_aside(file, b"".join(msgspec.json.encode(p) + b"\n" for p in chain(kept, found)))
