"""What is read off the hidden states of a whole prompt: how likely its tokens are, or one vector for all of it.

A reader is shown the prompt from its start to its end, in chunks; where a sequence lost its memory and starts again,
what was shown before is passed over. Knows nothing of scheduling or sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

from inference.engine.interface import Pooling, StepOutput, TokenLogprob
from inference.engine.logprobs import token_logprobs

# Logits held at once, so that a long prompt needs no more memory than a short one: 32 MiB of fp32.
_MAX_LOGITS = 8 * 2**20


class PromptReader(Protocol):
    position: int  # tokens whose hidden states it has taken in
    finite: bool  # so far

    def read(self, start: int, hidden: torch.Tensor) -> None:
        """The last hidden states [tokens, hidden_size] of known tokens from `start`, at most `position`, on."""

    def fill(self, output: StepOutput) -> None:
        """Adds what was read, after the last token of the prompt."""


class PromptScorer:
    """Logprobs of the prompt's own tokens."""

    def __init__(
        self,
        prompt_ids: list[int],
        top: int,
        logits: Callable[[torch.Tensor], torch.Tensor],
        vocab_size: int,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        """`top` alternatives for each token; `logits` makes them, [rows, vocab_size], of hidden states."""
        self.position = 0
        self.finite = True
        self._ids, self._top, self._logits, self._token_bytes = prompt_ids, top, logits, token_bytes
        self._rows = max(_MAX_LOGITS // vocab_size, 1)
        self._scores = [TokenLogprob(prompt_ids[0], token_bytes(prompt_ids[0]), None)]

    def read(self, start: int, hidden: torch.Tensor) -> None:
        # The last token predicts the answer, not the prompt.
        wanted = hidden[self.position - start : len(self._ids) - 1 - start]
        for rows in wanted.split(self._rows) if len(wanted) else ():
            first = self.position + 1
            logits = self._logits(rows)
            self.finite = self.finite and bool(logits.amax(dim=-1).isfinite().all())
            ids = self._ids[first : first + len(rows)]
            self._scores += token_logprobs(logits, ids, [self._top] * len(ids), self._token_bytes)
            self.position += len(rows)

    def fill(self, output: StepOutput) -> None:
        output.prompt_logprobs = self._scores


class Pooler:
    """One fp32 vector [hidden_size] for the prompt."""

    def __init__(self, pooling: Pooling) -> None:
        self.position = 0
        self.finite = True
        self._pooling = pooling
        self._sum = torch.zeros(())

    def read(self, start: int, hidden: torch.Tensor) -> None:
        new = hidden[self.position - start :].float()
        if not len(new):
            return  # it lost its memory, and was shown all of this before
        self._sum = new[-1] if self._pooling.kind == "last" else self._sum + new.sum(dim=0)
        self.finite = bool(self._sum.isfinite().all())
        self.position += len(new)

    def fill(self, output: StepOutput) -> None:
        vector = self._sum if self._pooling.kind == "last" else self._sum / self.position
        if self._pooling.normalize:
            vector = F.normalize(vector, dim=0)
        output.embedding = vector.tolist()
