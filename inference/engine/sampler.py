"""Chooses the next token of each sequence from its logits. Knows nothing of models, text or scheduling.

A sequence's choice depends on its own logits, parameters, history and (seed, choice, position) alone: never on what
else is in the batch, on how often the process was restarted, or on the state of a generator.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import torch

# Rows are cut to this many likeliest tokens before anything is sorted; a row that needs more takes the next size, and
# one that needs more than the last is sorted whole.
_SHORTLISTS = (64, 1024)


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
    bias: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)  # ids, what is added
    allowed: torch.Tensor | None = field(default=None, repr=False)  # by a grammar, for this position

    def prepare(self, vocab_size: int, prompt: list[int], logit_bias: dict[int, float]) -> None:
        """Ids are below `vocab_size`."""
        if logit_bias:
            self.bias = (torch.tensor([*logit_bias]), torch.tensor([*logit_bias.values()]))
        if self.settings.penalises:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool)
            self.seen[torch.tensor(prompt, dtype=torch.long)] = True
            self.counts = torch.zeros(vocab_size)

    def append(self, token: int) -> None:
        self.position += 1
        if self.seen is not None and self.counts is not None:
            self.seen[token] = True
            self.counts[token] += 1

    def along(self, draft: list[int]) -> list[SamplingState]:
        """This state, and those after each of the drafted tokens."""
        states = [self]
        for token in draft:
            last = states[-1]
            seen, counts = (kept if kept is None else kept.clone() for kept in (last.seen, last.counts))
            states.append(replace(last, seen=seen, counts=counts))
            states[-1].append(token)
        return states


class SamplingFailure(Exception):
    """The logits of one sequence allow no choice; the message is a sentence."""


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}:{choice}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def sample(logits: torch.Tensor, states: list[SamplingState]) -> list[int | SamplingFailure]:
    """One token for each row of fp32 logits [rows, vocab_size], which are changed in place.

    The order is vLLM's: bias, penalties, then temperature and truncation. What a grammar rules out stays ruled out.
    """
    for row, state in enumerate(states):
        if state.bias is not None or state.seen is not None or state.allowed is not None:
            _adjust(logits[row], state)
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
    chosen: dict[int, int | SamplingFailure] = {}
    for row, peak in enumerate(logits.amax(dim=-1).tolist()):
        if not float("-inf") < peak < float("inf"):
            chosen[row] = SamplingFailure(
                "The model gave numbers that are not finite, so no token can be chosen."
            )
    sound = [row for row in range(len(states)) if row not in chosen]
    greedy = [row for row in sound if states[row].settings.temperature == 0]
    for truncates in (False, True):
        drawing = [
            row
            for row in sound
            if states[row].settings.temperature > 0 and states[row].settings.truncates == truncates
        ]
        if drawing:
            draw = _draw_truncated if truncates else _draw
            drawn = draw(_rows(logits, drawing), [states[row] for row in drawing])
            chosen.update(zip(drawing, drawn.tolist(), strict=True))
    if greedy:
        chosen.update(zip(greedy, _rows(logits, greedy).argmax(dim=-1).tolist(), strict=True))
    return [chosen[row] for row in range(len(states))]


def _rows(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows, in ascending order: a copy only where they are not all there are."""
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _adjust(logits: torch.Tensor, state: SamplingState) -> None:
    if state.bias is not None:
        logits.index_add_(0, *state.bias)
    _penalise(logits, state)
    if state.allowed is not None:
        logits.masked_fill_(~state.allowed, float("-inf"))


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


def _column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def _probabilities(logits: torch.Tensor, states: list[SamplingState]) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 [rows, vocab_size], and what each row draws: fp64 [rows, 1]."""
    # Less than the least temperature that overflows no logit is as good as none.
    temperatures = _column([max(s.settings.temperature, 1e-20) for s in states]).float()
    draws = _column([uniform(s.seed, s.choice, s.position) for s in states])
    return (logits / temperatures).softmax(dim=-1), draws


def _draw(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """From all there is, in the order of the ids: first a stretch of the vocabulary, then a token of it."""
    probabilities, draws = _probabilities(logits, states)
    rows = torch.arange(len(states))
    stretches = probabilities.view(len(states), -1, math.gcd(probabilities.shape[1], 256))
    sums = stretches.sum(dim=-1).double()
    cumulated = sums.cumsum(dim=-1)
    targets = draws * cumulated[:, -1:]
    stretch = _pick(cumulated, targets)
    # How far into the stretch the target lies, as a share of it.
    within = sums[rows, stretch]
    share = (1 - (cumulated[rows, stretch] - targets.squeeze(1)) / within).clamp(min=0)
    inside = stretches[rows, stretch].double().cumsum(dim=-1)
    return stretch * stretches.shape[-1] + _pick(inside, share.unsqueeze(1) * inside[:, -1:])


def _draw_truncated(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """From the likeliest tokens that top-k, then top-p, then min-p leave, the likeliest first."""
    probabilities, draws = _probabilities(logits, states)
    vocab_size = probabilities.shape[1]
    top_k = _column([s.settings.top_k or math.inf for s in states])
    top_p = _column([s.settings.top_p for s in states])
    min_p = _column([s.settings.min_p for s in states]).float()
    tokens = torch.empty(len(states), dtype=torch.long)
    rows = torch.arange(len(states))
    for size in (*_SHORTLISTS, vocab_size):
        likeliest, ids = _likeliest(probabilities, min(size, vocab_size))
        kept, certain = _truncate(likeliest, top_k, top_p, min_p)
        certain |= size >= vocab_size
        cumulated = kept.cumsum(dim=-1)
        picked = ids.gather(1, _pick(cumulated, draws * cumulated[:, -1:]).unsqueeze(1)).squeeze(1)
        tokens[rows[certain]] = picked[certain]
        if bool(certain.all()):
            break
        left = ~certain
        rows, probabilities, draws = rows[left], probabilities[left], draws[left]
        top_k, top_p, min_p = top_k[left], top_p[left], min_p[left]
    return tokens


def _likeliest(probabilities: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest of each row and their ids, [rows, count], descending."""
    rows, vocab_size = probabilities.shape
    fold = math.gcd(vocab_size, 16)
    width = vocab_size // fold
    if count >= width:
        return probabilities.topk(count, dim=-1)
    # What is among the highest lies in a column whose maximum is: only those columns are looked at, and a maximum over
    # columns is cheap where a search is not.
    columns = probabilities.view(rows, fold, width).amax(dim=1).topk(count, dim=-1, sorted=False).indices
    ids = (columns.unsqueeze(1) + torch.arange(0, vocab_size, width).view(fold, 1)).view(rows, -1)
    values, at = probabilities.gather(1, ids).topk(count, dim=-1)
    return values, ids.gather(1, at)


def _truncate(
    likeliest: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Descending probabilities [rows, count] with 0 for what is cut off, fp64; and which rows would keep no more of a
    longer list."""
    count = likeliest.shape[1]
    within = torch.arange(count) < top_k
    shares = torch.where(within, likeliest, 0).double()
    cumulated = shares.cumsum(dim=-1)
    # Only top-k renormalises: what it left counts as everything there is.
    total = torch.where(top_k <= count, cumulated[:, -1:], 1.0)
    keep = within & ((cumulated - shares < top_p * total) | (top_p == 1))
    keep &= likeliest >= min_p * likeliest[:, :1]
    keep[:, 0] = True
    # A longer list may hold more of what is to be kept, and decides what a longer top-k leaves.
    certain = (top_k <= count) | (top_k.isinf() & ~keep[:, -1:])
    return torch.where(keep, shares, 0), certain.squeeze(1)


def _pick(cumulated: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where cumulated weights [rows, count] pass the targets [rows, 1]: never at something that weighs nothing."""
    index = torch.searchsorted(cumulated, targets, right=True)
    last = torch.searchsorted(cumulated, cumulated[:, -1:].contiguous())
    return torch.minimum(index, last).squeeze(1)
