"""What optuna says of a search: what to try next, whether a trial is hopeless, which knobs mattered. Knows no rows.

A study is made anew of its trials each time, and its sampler begins with a seed of the search and the trial's number:
the same trials lead to the same next one, whoever asks. (TPE: Bergstra et al. 2011; PED-ANOVA: arXiv:2304.10255.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from training.search_space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Of so many finished trials the median says something.
_JUDGED_BY = 4
# Before TPE learns of what there is, so many are drawn by chance; optuna's 10 would be all of a short search.
_FEWEST_BY_CHANCE, _MOST_BY_CHANCE = 4, 10
_FEWEST_FOR_IMPORTANCE = 8
# A trial that is worse by less than a hundredth is not hopeless: the same sums in another order differ in their last
# digits.
_CLEARLY = 0.99

State = Literal["complete", "pruned", "failed", "running"]


class Trial(NamedTuple):
    values: dict[str, Any]  # of each knob of the space
    state: State
    result: float | None  # what is to be low, of a complete one
    seen: list[float]  # what it was so far, evaluation by evaluation


class Study:
    def __init__(self, space: Space, trials: Sequence[Trial], *, wanted: int = 0, seed: str = "") -> None:
        """`wanted`: how many trials there are to be; `seed`: whatever tells searches apart."""
        self._space = {name: _distribution(asked) for name, asked in space.items()}
        self._trials = [self._frozen(trial) for trial in trials]
        by_chance = min(max(wanted // 4, _FEWEST_BY_CHANCE), _MOST_BY_CHANCE)
        number = len(trials) + 1
        digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
        sampler = TPESampler(seed=int.from_bytes(digest[:4], "big"), n_startup_trials=by_chance)
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._study.add_trials(self._trials)

    def next(self) -> dict[str, Any]:
        """What to try."""
        return dict(self._study.ask(self._space).params)

    def is_hopeless(self, index: int) -> bool:
        """Whether the best that a running trial has seen is clearly worse than the median of the others by then.

        "By then" is the n-th evaluation: where batches are of different sizes, steps cannot be compared.
        """
        pruner = MedianPruner(n_startup_trials=_JUDGED_BY, n_warmup_steps=0)
        return bool(self._trials[index].intermediate_values) and bool(
            pruner.prune(self._study, self._trials[index])
        )

    def importance(self) -> dict[str, float]:
        """Each knob's share of what made trials good; nothing where there are too few to say."""
        complete = [trial for trial in self._trials if trial.state == TrialState.COMPLETE]
        if len(self._space) < 2 or len(complete) < _FEWEST_FOR_IMPORTANCE:
            return {}
        shares = get_param_importances(self._study, evaluator=PedAnovaImportanceEvaluator())
        return {name: round(share, 4) for name, share in shares.items()}

    def _frozen(self, trial: Trial) -> FrozenTrial:
        state = {
            "complete": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
            "running": TrialState.RUNNING,
        }[trial.state]
        return create_trial(
            state=state,
            params=trial.values,
            distributions=self._space,
            value=trial.result if state == TrialState.COMPLETE else None,
            intermediate_values={
                number: value * (_CLEARLY if state == TrialState.RUNNING else 1)
                for number, value in enumerate(trial.seen, 1)
            },
        )


def _distribution(asked: dict[str, Any]) -> BaseDistribution:
    if "choices" in asked:
        return CategoricalDistribution(asked["choices"])
    low, high, log = asked["low"], asked["high"], asked["log"]
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
