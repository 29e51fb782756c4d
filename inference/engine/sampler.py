"""Chooses the next token of each sequence from its logits. Knows nothing of models, text or scheduling.

A sequence's choice depends on its own logits, parameters, history and (seed, choice, position) alone: never on what
else is in the batch, on how often the process was restarted, or on the state of a generator.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import torch

from inference.engine.device import CPU, to_device
from inference.engine.seen import SeenTokens

# Rows are cut to this many likeliest tokens before anything is sorted; a row that needs more takes the next size, and
# one that needs more than the last is sorted whole.
_SHORTLISTS = (64, 1024)
# Where a row has no token, or not yet.
_UNSOUND, _UNCERTAIN = -1, -2


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
    def kind(self) -> str:
        """How a token is drawn: "greedy", "plain" or "truncated"."""
        if self.temperature == 0:
            return "greedy"
        return "truncated" if self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0 else "plain"


@dataclass
class SamplingState:
    """One sequence, as the sampler sees it."""

    settings: SamplingSettings
    seed: int
    choice: int
    position: int = 0  # of the token to choose, in the answer
    seen: SeenTokens | None = field(default=None, repr=False)  # kept where something is penalised
    bias: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)  # ids, what is added
    allowed: torch.Tensor | None = field(default=None, repr=False)  # by a grammar, for this position

    def prepare(self, prompt: list[int], logit_bias: dict[int, float], device: torch.device = CPU) -> None:
        """`device` is that of the logits to come."""
        if logit_bias:
            self.bias = (to_device([*logit_bias], device), to_device([*logit_bias.values()], device))
        if self.settings.penalises:
            self.seen = SeenTokens.of(prompt, device)

    def append(self, token: int) -> None:
        self.position += 1
        if self.seen is not None:
            self.seen.add(token)

    def along(self, draft: list[int]) -> list[SamplingState]:
        """This state, and those after each of the drafted tokens."""
        states = [self]
        for token in draft:
            last = states[-1]
            states.append(replace(last, seen=last.seen and last.seen.copy()))
            states[-1].append(token)
        return states


class SamplingFailure(Exception):
    """The logits of one sequence allow no choice; the message is a sentence."""


_NOT_FINITE = SamplingFailure("The model gave numbers that are not finite, so no token can be chosen.")


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
    sound = logits.amax(dim=-1).isfinite()
    try:
        return _choose(logits, states, sound)
    except Exception:
        # Somebody's row is at fault; alone, it fails alone.
        each = zip(logits.split(1), states, sound.split(1), strict=True)
        return [_choose_alone(*own) for own in each]


def _choose_alone(logits: torch.Tensor, state: SamplingState, sound: torch.Tensor) -> int | SamplingFailure:
    try:
        return _choose(logits, [state], sound)[0]
    except Exception as error:
        return SamplingFailure(f"The next token could not be chosen: {error}.")


def _choose(
    logits: torch.Tensor, states: list[SamplingState], sound: torch.Tensor
) -> list[int | SamplingFailure]:
    """What every row draws is asked for at once: on a GPU that is the one time a step waits for it."""
    if logits.is_cuda or not bool(sound.all()):
        # Nothing comes of them, but they are drawn from.
        logits.masked_fill_(~sound.unsqueeze(1), 0)
    by_kind: dict[str, list[int]] = {}
    for row, state in enumerate(states):
        by_kind.setdefault(state.settings.kind, []).append(row)
    drawn: list[torch.Tensor] = []
    truncated: _Truncated | None = None
    for kind, rows in by_kind.items():
        own, its_states = _rows(logits, rows), [states[row] for row in rows]
        if kind == "greedy":
            drawn.append(own.argmax(dim=-1))
        elif kind == "plain":
            drawn.append(_draw(own, its_states))
        else:
            truncated = _Truncated(own, its_states)
            drawn.append(truncated.draw(_SHORTLISTS[0]))
    order = [row for rows in by_kind.values() for row in rows]
    tokens = torch.where(_rows(sound, order), torch.cat(drawn), _UNSOUND)
    chosen = dict(zip(order, tokens.tolist(), strict=True))
    for size in (*_SHORTLISTS[1:], logits.shape[1]):
        left = [at for at, row in enumerate(by_kind.get("truncated", ())) if chosen[row] == _UNCERTAIN]
        if truncated is None or not left:
            break
        rows = [by_kind["truncated"][at] for at in left]
        chosen.update(zip(rows, truncated.draw(size, left).tolist(), strict=True))
    return [_NOT_FINITE if chosen[row] == _UNSOUND else chosen[row] for row in range(len(states))]


def _rows(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows: a copy only where they are not all there are, in order."""
    return tensor if rows == [*range(len(tensor))] else tensor[to_device(rows, tensor.device)]


def _adjust(logits: torch.Tensor, state: SamplingState) -> None:
    if state.bias is not None:
        logits.index_add_(0, *state.bias)
    if state.seen is not None:
        said = state.settings
        state.seen.penalise(logits, said.repetition_penalty, said.frequency_penalty, said.presence_penalty)
    if state.allowed is not None:
        logits.masked_fill_(~to_device(state.allowed, logits.device), float("-inf"))


def _probabilities(logits: torch.Tensor, states: list[SamplingState]) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 [rows, vocab_size], and fp64 [rows, 4]: what each row draws, its top-k, top-p and min-p."""
    numbers = [
        (
            # Less than the least temperature that overflows no logit is as good as none.
            max(s.settings.temperature, 1e-20),
            uniform(s.seed, s.choice, s.position),
            s.settings.top_k or math.inf,
            s.settings.top_p,
            s.settings.min_p,
        )
        for s in states
    ]
    columns = to_device(numbers, logits.device, torch.float64)
    return (logits / columns[:, :1].float()).softmax(dim=-1), columns[:, 1:]


def _draw(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
    """From all there is, in the order of the ids: first a stretch of the vocabulary, then a token of it."""
    probabilities, numbers = _probabilities(logits, states)
    draws = numbers[:, :1]
    rows = torch.arange(len(states), device=logits.device)
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


class _Truncated:
    """Rows that draw from the likeliest tokens that top-k, then top-p, then min-p leave, the likeliest first."""

    def __init__(self, logits: torch.Tensor, states: list[SamplingState]) -> None:
        self._probabilities, self._numbers = _probabilities(logits, states)

    def draw(self, size: int, rows: list[int] | None = None) -> torch.Tensor:
        """Of these rows [all], from their `size` likeliest tokens; _UNCERTAIN where more of them have to be known."""
        probabilities, numbers = self._probabilities, self._numbers
        if rows is not None:
            probabilities, numbers = _rows(probabilities, rows), _rows(numbers, rows)
        draws, top_k, top_p, min_p = numbers.split(1, dim=1)
        vocab_size = probabilities.shape[1]
        likeliest, ids = _likeliest(probabilities, min(size, vocab_size))
        kept, certain = _truncate(likeliest, top_k, top_p, min_p.float())
        cumulated = kept.cumsum(dim=-1)
        picked = ids.gather(1, _pick(cumulated, draws * cumulated[:, -1:]).unsqueeze(1)).squeeze(1)
        return picked if size >= vocab_size else torch.where(certain, picked, _UNCERTAIN)


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
    starts = torch.arange(0, vocab_size, width, device=probabilities.device).view(fold, 1)
    ids = (columns.unsqueeze(1) + starts).view(rows, -1)
    values, at = probabilities.gather(1, ids).topk(count, dim=-1)
    return values, ids.gather(1, at)


def _truncate(
    likeliest: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Descending probabilities [rows, count] with 0 for what is cut off, fp64; and which rows would keep no more of a
    longer list."""
    count = likeliest.shape[1]
    within = torch.arange(count, device=likeliest.device) < top_k
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
