"""Texts as token ids, each with its target. Knows nothing of what the targets mean."""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.datasets.examples import Example, LabelledExample
from training.datasets.problems import DataError
from training.encoding import Encoder
from training.trainer.data import Batch, Span, TokenizedSplit

Target = tuple[int, ...] | float  # the numbers of its labels, or its value in the unit of the data


class LabelledSplit(TokenizedSplit):
    """A text's target is told at its last token, which has seen all of it; a text that is cut has another last one."""

    def __init__(
        self,
        target_of: Callable[[LabelledExample], Target],
        stacked: Callable[[list[Target]], torch.Tensor],
    ) -> None:
        """`target_of` raises DataError for what is left out; `stacked` makes a batch's targets a tensor."""
        super().__init__()
        self._target_of, self._stacked = target_of, stacked
        self._targets: dict[int, Target] = {}  # by where the text starts

    def _add(self, examples: list[tuple[int, Example]], encoder: Encoder) -> None:
        encoded = encoder.encode_all([example for _, example in examples])
        for (line, example), result in zip(examples, encoded, strict=True):
            try:
                if isinstance(result, Exception):
                    raise result
                assert isinstance(
                    example, LabelledExample
                )  # the manifest says so, and it has been looked through
                target = self._target_of(example)
                if not result.ids:
                    raise DataError("empty_field", "The text is empty.")
            except Exception as error:
                self.refused.append((line, str(error)))
                continue
            self._targets[len(self._ids)] = target
            self._examples.append((len(self._ids), line, False))
            self._ids.extend(result.ids)

    def target(self, span: Span) -> Target:
        return self._targets[span.start]

    def spans(self, max_length: int) -> list[Span]:
        return [
            Span(start, start + min(length, max_length), 1, line)
            for (start, line, _), length in zip(self._examples, self.lengths, strict=True)
        ]

    def batch(self, spans: list[Span], device: torch.device) -> Batch:
        ids, positions, lengths = self._row(spans)
        return Batch(
            ids=ids.to(device),
            positions=positions.to(device),
            lengths=lengths,
            rows=(torch.tensor(lengths).cumsum(0) - 1).to(device),
            targets=self._stacked([self.target(span) for span in spans]).to(device),
            lines=[span.line for span in spans],
        )
