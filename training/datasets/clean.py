"""Does what a recipe says: counted beforehand (`preview`), or for good (`freeze`). Knows nothing of uploads or Django.

Both do the same work and differ only in what they write, so what is promised is what happens: examples go through the
steps that need no others, part by part (`prepare`); then what needs all of them is decided here from fingerprints:
duplicates, outliers, overlap, and in which split each is.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from training.datasets.arrays import load, load_apart, load_fingerprints
from training.datasets.aside import disk_full, folder_aside
from training.datasets.augment import augmented
from training.datasets.duplicates import find_duplicates, find_overlap
from training.datasets.evaluation import evaluation_fingerprints
from training.datasets.examples import Example, Kind, LabelledExample
from training.datasets.fingerprints import Fingerprints
from training.datasets.frozen import FORMAT, SPLITS, Manifest, SplitInfo, content_hash, write_groups
from training.datasets.outliers import find_outliers
from training.datasets.parallel import run_all
from training.datasets.prepare import (
    AUGMENTABLE,
    CUT,
    LEARNABLE,
    SAMPLES,
    TOO_LONG,
    Piece,
    Prepared,
    prepare,
    sample_of,
)
from training.datasets.problems import DataError
from training.datasets.progress import Progress, silent
from training.datasets.recipe import Augment, Effect, Recipe
from training.datasets.shards import Index, parts_of
from training.datasets.split import TRAIN, VALIDATION, Labels, keys_of_groups, split_rows

_SAY_EVERY = 2**20  # bytes written
_decoder: msgspec.json.Decoder[Example] = msgspec.json.Decoder(Example)

Mask = npt.NDArray[np.bool_]


def preview(
    folder: Path,
    recipe: Recipe,
    scratch: Path,
    *,
    model: Path | None = None,
    evaluation: Sequence[Path] = (),
    progress: Progress = silent,
    processes: int = 2,
) -> list[Effect]:
    """What each step that is switched on would do to `folder/records`, in order. Raises as `freeze` does.

    `scratch`: a folder that is there meanwhile. Whoever is killed leaves it: it is not to lie among the records.
    """
    try:
        scratch.mkdir(parents=True)
        return _plan(
            folder, None, recipe, scratch, model, evaluation, progress, processes, write=False
        ).effects
    except OSError as error:
        raise disk_full(error) or error from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def freeze(
    folder: Path,
    recipe: Recipe,
    out: Path,
    *,
    parent: str,
    validation: Path | None = None,
    model: Path | None = None,
    evaluation: Sequence[Path] = (),
    progress: Progress = silent,
    processes: int = 2,
) -> Manifest:
    """Makes the folder `out` of `folder/records`; it is there as a whole or not at all.

    `validation`: a folder whose records are the validation split, instead of a share of the others.
    `model`: whose tokens the recipe's `max_tokens` are. `evaluation`: what the recipe's `drop_overlap` keeps out.
    Raises DataError `nothing_to_learn`, `mixed_kinds`, `no_model`, `model_unreadable`, `dataset_broken`, `disk_full`,
    `worker_lost`, and what `progress` raises.
    """
    with folder_aside(out) as aside:
        with tempfile.TemporaryDirectory(dir=aside) as scratch:
            plan = _plan(
                folder, validation, recipe, Path(scratch), model, evaluation, progress, processes, write=True
            )
            splits, labels = _write(plan, recipe, aside, progress)
        # Not what was before: that may be what was to be redacted or left out.
        effects = [msgspec.structs.replace(effect, samples=[]) for effect in plan.effects]
        manifest = Manifest(
            FORMAT, plan.kind, content_hash(plan.kind, splits), parent, recipe, splits, effects, labels
        )
        (aside / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


@dataclass
class _Plan:
    kind: Kind
    lines: list[Path]  # of all examples that the first steps left, one file for each part
    kept: Mask  # of these
    split: npt.NDArray[np.uint8]
    together: npt.NDArray[np.uint64]  # the same for what no split and no fold tears apart
    augment: Mask
    effects: list[Effect]


def _plan(
    folder: Path,
    validation: Path | None,
    recipe: Recipe,
    scratch: Path,
    model: Path | None,
    evaluation: Sequence[Path],
    progress: Progress,
    processes: int,
    *,
    write: bool,
) -> _Plan:
    limited = recipe.max_tokens > 0 and recipe.too_long != "keep"
    if limited and model is None:
        raise DataError("no_model", "A length in tokens needs a model whose tokens they are; choose one.")
    given = parts_of(validation / "records") if validation is not None else []
    pieces = [
        Piece(part, str(scratch / f"{number:05}.npz"), recipe, str(model) if limited else "", write)
        for number, part in enumerate([*parts_of(folder / "records"), *given])
    ]
    total = sum(piece.part.size for piece in pieces)
    prepared = run_all(
        prepare,
        pieces,
        stage="cleaning",
        total=total,
        processes=processes,
        progress=progress,
        reads=[place for place in (folder, validation, model) if place is not None],
        writes=[scratch],
    )
    kinds = {kind for some in prepared for kind in some.kinds}
    if len(kinds) > 1:
        raise DataError(
            "mixed_kinds", f"A dataset holds one kind of example; this has {' and '.join(sorted(kinds))}."
        )
    others = evaluation_fingerprints(evaluation if recipe.drop_overlap else (), progress)
    whole = _Whole(pieces, prepared, given=len(given))
    whole.decide(recipe, others, limited)
    if not (whole.kept & ~whole.given & (whole.flags & LEARNABLE > 0)).any():
        raise DataError(
            "nothing_to_learn", "Nothing is left to learn from; look at the report, or change the steps."
        )
    progress("splitting", 1, 1)
    return whole.plan(recipe, kinds.pop())  # type: ignore[arg-type]


class _Whole:
    """All examples that the first steps left, and which of them are kept. Those of the last `given` pieces are the
    validation split."""

    def __init__(self, pieces: list[Piece], prepared: list[Prepared], given: int) -> None:
        files = [Path(piece.into) for piece in pieces]
        self._lines = [file.with_suffix(".jsonl") for file in files]
        self._prints = load_fingerprints(files)
        self._duplicates = find_duplicates(self._prints)
        self._features, self._groups = load(files, "features"), load(files, "groups")
        self.flags = load(files, "flags")
        offsets = load_apart(files, "offsets")
        self._index = Index([piece.part for piece in pieces], offsets)
        self.kept: Mask = np.ones(len(self.flags), bool)
        self.effects = _summed([some.effects for some in prepared])
        begins = np.cumsum([0, *(len(some) for some in offsets)]).tolist()
        self.given: Mask = np.arange(len(self.flags)) >= begins[len(pieces) - given]
        labels = load_apart(files, "labels")
        self._labels = Labels(
            np.concatenate(
                [some[:, 0].astype(np.int64) + b for b, some in zip(begins, labels, strict=False)]
            ),
            np.concatenate([some[:, 1] for some in labels]),
        )
        self._cuts = [
            (begin + row, before, after)
            for begin, some in zip(begins, prepared, strict=False)
            for row, before, after in some.cuts
        ]

    def decide(self, recipe: Recipe, others: Fingerprints, limited: bool) -> None:
        """The rest of the steps that leave examples out."""
        if recipe.deduplicate:
            repeats = self._duplicates.exact
            if recipe.deduplicate == "near":
                repeats = repeats | self._duplicates.near
            self._drop("deduplicate", repeats)
        if recipe.drop_outliers:
            outliers = np.zeros(len(self.kept), bool)
            outliers[self.kept] = find_outliers(self._features[self.kept])
            self._drop("drop_outliers", outliers)
        if recipe.drop_overlap:
            self._drop("drop_overlap", find_overlap(self._prints, others))
        if limited:
            effect = self._drop("too_long", self.flags & TOO_LONG > 0)
            effect.changed = int((self.kept & (self.flags & CUT > 0)).sum())
            cuts = [(before, after) for row, before, after in self._cuts if self.kept[row]]
            effect.samples = (cuts + effect.samples)[:SAMPLES]

    def plan(self, recipe: Recipe, kind: Kind) -> _Plan:
        rows = np.flatnonzero(self.kept & ~self.given)
        # Clusters by their first row that is still there.
        _, first, inverse = np.unique(self._duplicates.cluster[rows], return_index=True, return_inverse=True)
        split = np.full(len(self.kept), VALIDATION, np.uint8)
        together = np.zeros(len(self.kept), np.uint64)
        together[rows] = keys_of_groups(self._prints.exact[rows], first[inverse], self._groups[rows])
        split[rows] = split_rows(together[rows], recipe.split, self._labels_of(rows))
        augment = np.zeros(len(self.kept), bool)
        if recipe.augment is not None:
            augment = self.kept & (split == TRAIN) & (self.flags & AUGMENTABLE > 0)
            added = recipe.augment.copies * int(augment.sum())
            self.effects.append(Effect("augment", 0, 0, added, self._augmented(augment, recipe.augment)))
        sizes = np.bincount(split[self.kept], minlength=len(SPLITS)).tolist()
        sizes[TRAIN] += sum(effect.added for effect in self.effects)
        self.effects.append(Effect("split", 0, 0, splits=dict(zip(SPLITS, sizes, strict=True))))
        return _Plan(kind, self._lines, self.kept, split, together, augment, self.effects)

    def _labels_of(self, rows: npt.NDArray[np.int64]) -> Labels:
        """By their place among these rows."""
        is_there = np.zeros(len(self.kept), bool)
        is_there[rows] = True
        some = is_there[self._labels.rows]
        return Labels((np.cumsum(is_there) - 1)[self._labels.rows[some]], self._labels.hashes[some])

    def _drop(self, step: str, rows: Mask) -> Effect:
        dropped = self.kept & rows
        self.kept &= ~rows
        samples = [
            sample_of(self._index.record(row).example, None)
            for row in np.flatnonzero(dropped)[:SAMPLES].tolist()
        ]
        effect = Effect(step, 0, int(dropped.sum()), samples=samples)
        self.effects.append(effect)
        return effect

    def _augmented(self, rows: Mask, settings: Augment) -> list[tuple[str, str]]:
        examples = (self._index.record(row).example for row in np.flatnonzero(rows)[:SAMPLES].tolist())
        return [sample_of(e, augmented(e, 0, settings)) for e in examples if isinstance(e, LabelledExample)]


def _summed(parts: list[list[Effect]]) -> list[Effect]:
    """Those of the same step together."""
    whole: dict[str, Effect] = {}
    for effect in (effect for part in parts for effect in part):
        total = whole.setdefault(effect.step, Effect(effect.step, 0, 0))
        total.changed += effect.changed
        total.dropped += effect.dropped
        total.samples = (total.samples + effect.samples)[:SAMPLES]
    return list(whole.values())


def _write(
    plan: _Plan, recipe: Recipe, folder: Path, progress: Progress
) -> tuple[dict[str, SplitInfo], list[str]]:
    """The files of the splits; and the labels, where there are any."""
    hashes = [hashlib.sha256() for _ in SPLITS]
    groups = [array("Q") for _ in SPLITS]
    counts = [0 for _ in SPLITS]
    labels: set[str] = set()
    done, said, total = 0, 0, sum(file.stat().st_size for file in plan.lines)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.jsonl").open("wb")) for name in SPLITS]
        rows = zip(
            plan.kept.tolist(),
            plan.split.tolist(),
            plan.augment.tolist(),
            plan.together.tolist(),
            strict=True,
        )
        for line, (kept, split, augment, together) in zip(_lines(plan.lines), rows, strict=True):
            done += len(line)
            if done - said > _SAY_EVERY:
                progress("writing", done, total)
                said = done
            if not kept:
                continue
            written = [line]
            if plan.kind == "labelled":
                example = _decoder.decode(line)
                assert isinstance(example, LabelledExample)
                labels.update(example.labels)
                if augment and recipe.augment is not None:
                    copies = (augmented(example, n, recipe.augment) for n in range(recipe.augment.copies))
                    written += [msgspec.json.encode(copy) + b"\n" for copy in copies]
            for one in written:
                files[split].write(one)
                hashes[split].update(one)
                groups[split].append(together)
            counts[split] += len(written)
    progress("writing", total, total)
    infos = [
        SplitInfo(count, hash.hexdigest(), write_groups(folder, name, keys))
        for name, count, hash, keys in zip(SPLITS, counts, hashes, groups, strict=True)
    ]
    return dict(zip(SPLITS, infos, strict=True)), sorted(labels)


def _lines(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as lines:
            yield from lines
