"""The sampler draws from the distribution transformers would draw from, and each row for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference.engine import sampler
from inference.engine.sampler import SamplingFailure, SamplingSettings, SamplingState, sample, uniform

VOCABULARY = 1000


def logits(seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def state(settings: SamplingSettings, position: int = 0, history: list[int] | None = None) -> SamplingState:
    made = SamplingState(settings, seed=11, choice=0)
    made.prepare(history or [], {})
    made.position = position
    return made


def expected(row: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        warpers.append(MinPLogitsWarper(settings.min_p))
    return warpers(torch.zeros(1, 1, dtype=torch.long), row.unsqueeze(0))[0].softmax(dim=-1)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=1.0),
        SamplingSettings(temperature=0.7, top_k=5),
        SamplingSettings(temperature=1.3, top_p=0.6),
        SamplingSettings(temperature=1.0, min_p=0.1),
        SamplingSettings(temperature=0.9, top_k=40, top_p=0.8, min_p=0.05),
        SamplingSettings(temperature=2.0, top_p=0.99),  # far more than the shortlist holds
        SamplingSettings(temperature=1.5, top_k=256),
        SamplingSettings(temperature=1.5, top_k=700),
        SamplingSettings(temperature=1.0, top_k=100, top_p=0.5),  # the shortlist has not all of the top 100
        SamplingSettings(temperature=1.5, top_k=64, top_p=0.99),
    ],
)
def test_what_is_drawn_and_how_often_is_what_transformers_would_draw(settings: SamplingSettings) -> None:
    row, draws = logits(), 20_000
    wanted = expected(row, settings)
    counts = torch.zeros(VOCABULARY)
    for start in range(0, draws, 500):
        states = [state(settings, position) for position in range(start, start + 500)]
        for token in sample(row.repeat(500, 1), states):
            assert isinstance(token, int)
            counts[token] += 1
    assert not counts[wanted == 0].any(), "something was drawn that had been cut off"
    # Total variation: a correct sampler stays within a few standard deviations of its multinomial.
    distance = float((counts / draws - wanted).abs().sum()) / 2
    bound = float((wanted * (1 - wanted) / draws).sqrt().sum()) / 2
    assert distance < bound * 1.5


def test_temperature_zero_and_almost_zero_take_the_likeliest() -> None:
    row = logits()
    for temperature in (0.0, 1e-6, 1e-30):
        assert sample(row.unsqueeze(0).clone(), [state(SamplingSettings(temperature=temperature))]) == [
            int(row.argmax())
        ]


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    settings = SamplingSettings(temperature=0, repetition_penalty=1.7)
    history = [3, 3, 50, int(logits().argmax())]
    row = logits().unsqueeze(0)
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([history]), row.clone())
    changed = row.clone()
    sample(changed, [state(settings, history=history)])
    assert torch.equal(changed, wanted)


def test_presence_and_frequency_count_only_what_was_answered() -> None:
    settings = SamplingSettings(temperature=0, presence_penalty=0.5, frequency_penalty=0.25)
    made = state(settings, history=[9, 9, 9])
    for token in (4, 4, 7):
        made.append(token)
    row = logits().unsqueeze(0)
    changed = row.clone()
    sample(changed, [made])
    difference = (row - changed)[0]
    assert difference[4].item() == pytest.approx(0.5 + 2 * 0.25, abs=1e-5)
    assert difference[7].item() == pytest.approx(0.5 + 0.25, abs=1e-5)
    assert difference[9].item() == 0


def test_a_row_draws_the_same_whatever_its_neighbours_are() -> None:
    rows = torch.stack([logits(n) for n in range(6)])
    settings = [
        SamplingSettings(temperature=0.8, top_k=50),
        SamplingSettings(temperature=0),
        SamplingSettings(temperature=1.2),
        SamplingSettings(temperature=1.0, top_p=0.9),
        SamplingSettings(temperature=2.0, top_p=0.999),
        SamplingSettings(temperature=1.0, repetition_penalty=1.3),
    ]

    def states() -> list[SamplingState]:
        return [state(s, position=n, history=[1, 2]) for n, s in enumerate(settings)]

    together = sample(rows.clone(), states())
    alone = [sample(rows[n : n + 1].clone(), [s])[0] for n, s in enumerate(states())]
    backwards = sample(rows.flip(0).clone(), states()[::-1])[::-1]
    assert together == alone == backwards


@pytest.mark.parametrize("vocabulary", [997, 1000, 4096])
@pytest.mark.parametrize(
    "settings",
    [SamplingSettings(temperature=0.7, top_p=0.9), SamplingSettings(), SamplingSettings(temperature=0)],
)
def test_many_rows_of_one_setting_draw_what_each_draws_alone(
    settings: SamplingSettings, vocabulary: int
) -> None:
    # From a row with one likely token to one where hundreds are kept.
    random = torch.Generator().manual_seed(3)
    rows = torch.randn(32, vocabulary, generator=random) * torch.linspace(6, 0.5, 32).unsqueeze(1)
    states = [SamplingState(settings, seed=n, choice=0) for n in range(32)]
    together = sample(rows.clone(), states)
    assert together == [sample(rows[n : n + 1].clone(), [states[n]])[0] for n in range(32)]
    for row, token in zip(rows, together, strict=True):
        assert isinstance(token, int)
        likelier = row.softmax(dim=-1)[row > row[token]]
        assert settings.top_p == 1 or float(likelier.sum()) < 0.9


def test_what_a_grammar_rules_out_is_never_chosen() -> None:
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[[3, 400, 401, 999]] = True
    chosen: set[int | SamplingFailure] = set()
    for settings in (
        SamplingSettings(temperature=2.0),
        SamplingSettings(temperature=2.0, top_p=0.999),
        SamplingSettings(temperature=0, repetition_penalty=1.5, frequency_penalty=2.0),
    ):
        states = [state(settings, position, history=[3]) for position in range(200)]
        for made in states:
            made.allowed = allowed
        chosen |= {*sample(logits(spread=1).repeat(200, 1), states)}
    assert chosen == {3, 400, 401, 999}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_without_a_choice_fails_alone(value: float) -> None:
    rows = torch.stack([logits(0), torch.full((VOCABULARY,), value), logits(1)])
    states = [state(SamplingSettings(temperature=0.9, top_p=0.9), n) for n in range(3)]
    first, second, third = sample(rows.clone(), states)
    assert isinstance(second, SamplingFailure)
    assert first == sample(rows[:1].clone(), states[:1])[0]
    assert third == sample(rows[2:].clone(), states[2:])[0]


def test_a_row_without_a_choice_is_told_apart_also_where_all_are_drawn_again_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.stack([logits(), torch.full((VOCABULARY,), float("nan"))])
    greedy = SamplingSettings(temperature=0)
    calls = []

    def failing_at_first(*args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("somebody's row is at fault")
        return real(*args)

    real = sampler._rows
    monkeypatch.setattr(sampler, "_rows", failing_at_first)
    sound, failed = sample(rows, [state(greedy), state(greedy)])
    assert sound == int(logits().argmax())
    assert isinstance(failed, SamplingFailure)


def test_randomness_is_even_and_a_function_of_its_arguments() -> None:
    values = [
        uniform(seed, choice, position) for seed in (-1, 7) for choice in (0, 1) for position in range(2000)
    ]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 1 for value in values)
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
    assert uniform(7, 0, 3) == uniform(7, 0, 3)
