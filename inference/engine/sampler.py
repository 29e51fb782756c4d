"""Chooses the next token of each sequence from its logits. Knows nothing of models, text or scheduling.

A sequence's choice depends on its own logits, parameters, history and (seed, choice, position) alone: never on what
else is in the batch, on how often the process was restarted, or on the state of a generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch

# Rows are cut to this many likeliest tokens before anything is sorted; a row that needs more is sorted whole.
_SHORTLIST = 256


@dataclass(frozen=True)
class SamplingSettings:
    """inference.parameters.SamplingParams with every default filled in."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def penalises(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


@dataclass
class SamplingState:
    """One sequence, as the sampler sees it."""

    settings: SamplingSettings
    seed: int
    choice: int
    position: int = 0  # of the token to choose, in the answer
    # Kept where something is penalised: tokens anywhere in the sequence, and how often each was answered.
    seen: torch.Tensor | None = field(default=None, repr=False)
    counts: torch.Tensor | None = field(default=None, repr=False)

    def prepare(self, vocab_size: int, prompt: list[int]) -> None:
        if self.settings.penalises:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen[torch.tensor(prompt, dtype=torch.long)] = True
            self.counts = torch.zeros(vocab_size)

    def append(self, token: int) -> None:
        self.position += 1
        if self.seen is not None and self.counts is not None:
            self.seen[token] = True
            self.counts[token] += 1


class SamplingFailure(Exception):
    """The logits of one sequence allow no choice; the message is a sentence."""


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}:{choice}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def sample(logits: torch.Tensor, states: list[SamplingState]) -> list[int | SamplingFailure]:
    """One token for each row of fp32 logits [rows, vocab_size]; penalties are applied to them in place."""
    for row, state in enumerate(states):
        _penalise(logits[row], state)
    try:
        return _choose(logits, states)
    except Exception:
        # Somebody's row is at fault; alone, it fails alone.
        return [_choose_alone(logits[row : row + 1], state) for row, state in enumerate(states)]


def _choose_alone(logits: torch.Tensor, state: SamplingState) -> int | SamplingFailure:
    try:
        return _choose(logits, [state])[0]
    except Exception as error:
        return SamplingFailure(f"The next token could not be chosen: {error}.")


def _choose(logits: torch.Tensor, states: list[SamplingState]) -> list[int | SamplingFailure]:
    best, choices = logits.max(dim=-1)
    chosen: list[int | SamplingFailure] = [*choices.tolist()]
    for row, peak in enumerate(best.tolist()):
        if not float("-inf") < peak < float("inf"):
            chosen[row] = SamplingFailure(
                "The model gave numbers that are not finite, so no token can be chosen."
            )
    drawing = [
        row
        for row, state in enumerate(states)
        if state.settings.temperature > 0 and not isinstance(chosen[row], SamplingFailure)
    ]
    if drawing:
        drawn = _draw(logits[drawing], [states[row] for row in drawing])
        for row, token in zip(drawing, drawn, strict=True):
            chosen[row] = token
    return chosen


def _penalise(logits: torch.Tensor, state: SamplingState) -> None:
    settings = state.settings
    if state.seen is None or state.counts is None:
        return
    if settings.repetition_penalty != 1.0:
        penalty = settings.repetition_penalty
        reduced = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits.copy_(torch.where(state.seen, reduced, logits))
    logits -= settings.frequency_penalty * state.counts
    logits -= settings.presence_penalty * (state.counts > 0)


def _draw(logits: torch.Tensor, states: list[SamplingState]) -> list[int]:
    # The highest logit is taken off first: divided by a tiny temperature it would overflow.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / torch.tensor([s.settings.temperature for s in states]).unsqueeze(1)
    probabilities = logits.softmax(dim=-1)
    draws = [uniform(s.seed, s.choice, s.position) for s in states]
    tokens = [0] * len(states)
    whole = [row for row, s in enumerate(states) if not s.settings.truncates]
    for row in whole:
        tokens[row] = _pick(probabilities[row], draws[row])
    cut = [row for row, s in enumerate(states) if s.settings.truncates]
    if not cut:
        return tokens
    short, ids = probabilities[cut].topk(min(_SHORTLIST, probabilities.shape[-1]), dim=-1)
    for at, row in enumerate(cut):
        settings = states[row].settings
        kept = _truncate(short[at], settings)
        # All of the shortlist was kept, so what should be kept may go on beyond it.
        if kept.shape[0] == short.shape[-1] < probabilities.shape[-1] and settings.top_k != kept.shape[0]:
            everything, order = probabilities[row].sort(descending=True)
            tokens[row] = int(order[_pick(_truncate(everything, settings), draws[row])])
        else:
            tokens[row] = int(ids[at, _pick(kept, draws[row])])
    return tokens


def _truncate(probabilities: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """The likeliest of descending probabilities that top-k, then top-p, then min-p leave; never none."""
    if settings.top_k > 0:
        probabilities = probabilities[: settings.top_k]
    keep = probabilities.shape[0]
    if settings.top_p < 1.0:
        share = probabilities.double()
        # Only top-k renormalises: what it left counts as everything there is.
        total = share.sum() if settings.top_k > 0 else 1.0
        before = share.cumsum(0) - share
        keep = int((before < settings.top_p * total).sum())
    if settings.min_p > 0.0:
        keep = min(keep, int((probabilities >= settings.min_p * probabilities[0]).sum()))
    return probabilities[: max(keep, 1)]


def _pick(probabilities: torch.Tensor, draw: float) -> int:
    """The index at which the cumulated weights pass `draw` of their sum."""
    cumulated = probabilities.double().cumsum(0)
    index = int(torch.searchsorted(cumulated, draw * cumulated[-1], right=True))
    return min(index, probabilities.shape[0] - 1)
