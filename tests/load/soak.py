"""Requests of every kind, submitted, cancelled and broken at random, with far too little memory for all of them: in the
end the engine is idle and intact, every stream has ended once, and what is cached is what would be computed.

python -m tests.load.soak REQUESTS SEED         on a tiny random model; `make soak` runs 20,000 in some minutes
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineBusy, EngineError, Pooling, Request, StepOutput
from inference.engine.loader import load_engine
from inference.parameters import JsonObject, JsonSchema, Regex, SamplingParams
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model

_RUNNING, _WAITING, _KV_TOKENS = 6, 24, 256
_WORKSPACES = ("one", "two", "three")
_ADAPTERS = ("one", "two", "three")
_BEGINNINGS = (
    "The quick brown fox " * 12,
    "The quick brown fox " * 6 + "naps " * 20,
    "Ein Haus am See. " * 9,
)
_PATTERN = r"\+[0-9]{2} [0-9]{3,6}"
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog", "日本"]}, "legs": {"type": "integer", "maximum": 9}},
        "required": ["kind"],
    }
)
_INVALID: tuple[dict[str, Any], ...] = (
    {"prompt": ""},
    {"prompt": "word " * 2000},
    {"prompt": "a", "sampling": SamplingParams(temperature=-1)},
    {"prompt": "a", "sampling": SamplingParams(response_format=Regex("a("))},
    {"prompt": "a", "sampling": SamplingParams(response_format=JsonSchema('{"type":'))},
    {"prompt": "a", "prior_token_ids": [10**6]},
    {"messages": [{"role": "wizard", "content": "a"}]},
    {"prompt": "a", "adapter": "four"},
)


class InjectedFailure(Exception):
    pass


class FaultyModel:
    """A model that now and then fails in the middle of a step, or says NaN of one row; never in three steps in a row,
    which is beyond repair."""

    def __init__(self, model: Any, chance: random.Random) -> None:
        self._model, self._chance = model, chance
        self.failed = self.not_finite = 0
        self._in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _maybe_fail(self) -> None:
        if self._in_a_row < 2 and self._chance.random() < 0.005:
            self._in_a_row += 1
            self.failed += 1
            raise InjectedFailure("out of memory")

    def __call__(self, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        self._maybe_fail()
        hidden: torch.Tensor = self._model(ids, *rest)
        self._maybe_fail()  # with keys and values written
        self._in_a_row = 0
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model.logits(hidden)
        if self._chance.random() < 0.01:
            self.not_finite += 1
            logits[self._chance.randrange(len(logits))] = float("nan")
        return logits


@dataclass
class Stream:
    """What came of one request."""

    request: Request
    deadline: int  # in steps
    max_tokens: int
    cancelled: bool = False
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: int = 0
    read: int = 0  # outputs with what was read of the prompt
    finish_reason: str | None = None


class Soak:
    def __init__(self, folder: Path, requests: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.requests = requests
        self.engine = load_engine(
            folder,
            dtype="fp32",
            max_running=_RUNNING,
            max_waiting=_WAITING,
            kv_tokens=_KV_TOKENS,
            max_loras=2,
        )
        self._adapters = tempfile.TemporaryDirectory()
        self._versions = [
            save_adapter(Path(self._adapters.name) / str(n), self.engine._loaded.config, seed=n, r=4 + n)
            for n in range(4)
        ]
        self.adapters: dict[str, Path] = {}
        for name in _ADAPTERS:
            self._load(name, self._versions[0])
        self.model = FaultyModel(self.engine._model, self.chance)
        self.engine._model = self.model  # type: ignore[assignment]
        self.steps = 0
        self.streams: dict[str, Stream] = {}  # not ended
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.pushed_out = 0
        put_back = self.engine._scheduler.waiting.put_back

        def counting(sequence: Any) -> None:
            self.pushed_out += 1
            put_back(sequence)

        self.engine._scheduler.waiting.put_back = counting  # type: ignore[method-assign]
        self._ids = map(str, itertools.count())
        self._submitted = 0
        # What may happen between two steps, and how often. Anything else that a worker does to an engine belongs here.
        self._events: dict[Callable[[], None], float] = {
            self._submit: 1.0,
            self._submit_choices: 0.1,
            self._submit_invalid: 0.05,
            self._cancel: 0.15,
            self._cancel_unknown: 0.05,
            self._swap_adapter: 0.05,
        }

    # --- what happens -----------------------------------------------------------------------------------------
    def run(self, said: Callable[[str], None] = lambda line: None) -> None:
        events, weights = [*self._events], [*self._events.values()]
        while self._submitted < self.requests:
            # Sometimes more comes than can be served, sometimes less.
            for event in self.chance.choices(events, weights, k=self.chance.choice((0, 0, 0, 0, 1, 1, 2))):
                event()
            self._step()
            if self.steps % 1000 == 0:
                said(f"{self._submitted} requests, {self.steps} steps, {self.pushed_out} pushed out")
        while self.streams:
            assert self.engine.has_work, f"nothing more comes of {[*self.streams]}"
            self._step()
        assert not self.engine.has_work
        self.engine.check_integrity()

    def _step(self) -> None:
        self.steps += 1
        for id, stream in self.streams.items():
            if self.steps > stream.deadline:
                self._stop(id)
        for output in self.engine.step():
            self._take(output)
        if self.steps % 20 == 0:
            self.engine.check_integrity()

    def _submit(self) -> None:
        self._try(self._request())

    def _submit_choices(self) -> None:
        request = self._request()
        for choice in range(self.chance.randint(2, 4)):
            self._try(_changed(request, id=next(self._ids), choice=choice))

    def _submit_invalid(self) -> None:
        changes = self.chance.choice(_INVALID)
        try:
            self.engine.submit(Request(id=next(self._ids), **changes))
        except EngineError as error:
            self.refused[error.code] += 1
        else:
            raise AssertionError(f"{changes} was not refused")

    def _cancel(self) -> None:
        if self.streams:
            self._stop(self.chance.choice([*self.streams]))

    def _cancel_unknown(self) -> None:
        self.engine.cancel(str(self.chance.randrange(self._submitted + 1)) + "?")

    def _swap_adapter(self) -> None:
        self._load(self.chance.choice(_ADAPTERS), self.chance.choice(self._versions))

    def _load(self, name: str, folder: Path) -> None:
        self.engine.load_adapter(name, folder)
        self.adapters[name] = folder

    def _stop(self, id: str) -> None:
        self.streams[id].cancelled = True
        self.engine.cancel(id)

    def _try(self, request: Request) -> None:
        try:
            admission = self.engine.submit(request)
        except EngineBusy as error:
            self.refused[error.code] += 1
        else:
            self._submitted += 1
            # Deadlines are the worker's business: to the engine they are cancellations.
            deadline = self.steps + (self.chance.randint(0, 40) if self.chance.random() < 0.1 else 10_000)
            self.streams[request.id] = Stream(request, deadline, admission.max_tokens)

    # --- requests ---------------------------------------------------------------------------------------------
    def _request(self) -> Request:
        chance = self.chance
        said = self._prompt()
        values: dict[str, Any] = {
            "id": next(self._ids),
            "seed": chance.randrange(1000),
            "cache_salt": chance.choices(_WORKSPACES, (6, 2, 1))[0],
            "adapter": chance.choice(["", "", *_ADAPTERS]),
        }
        kind = chance.random()
        if kind < 0.3:
            values |= {
                "messages": [{"role": "user", "content": said}],
                "truncate_oldest": chance.random() < 0.5,
            }
        elif kind < 0.4:
            values |= {"prompt_token_ids": self.engine.tokenizer.encode(said)}
        else:
            values |= {"prompt": said}
        if chance.random() < 0.06:
            return Request(**values, pooling=Pooling(kind=chance.choice(["mean", "last"])))
        sampling = self._sampling()
        if chance.random() < 0.1 and sampling.prompt_logprobs is None and sampling.response_format is None:
            values["prior_token_ids"] = [chance.randrange(3, 300) for _ in range(chance.randint(1, 12))]
        return Request(**values, sampling=sampling)

    def _prompt(self) -> str:
        beginning = self.chance.choice(_BEGINNINGS)
        return beginning[: self.chance.randrange(4, len(beginning))] + self.chance.choice(["", " a", " 🙂 b"])

    def _sampling(self) -> SamplingParams:
        chance = self.chance
        values: dict[str, Any] = {"max_tokens": chance.choice([1, 2, 4, 8, 16, 100]), "temperature": 0.0}
        if chance.random() < 0.6:
            values |= {"temperature": chance.choice([0.3, 1.0, 2.0]), "top_p": chance.choice([0.5, 1.0])}
            values |= {"top_k": chance.choice([0, 5, 100]), "min_p": chance.choice([0.0, 0.1])}
        if chance.random() < 0.2:
            values |= {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5}
        if chance.random() < 0.2:
            values |= {"stop": tuple(chance.sample(["e", " a", "the", "\n", "日本"], 2))}
        if chance.random() < 0.2:
            values |= {"stop_token_ids": (chance.randrange(400),), "ignore_eos": chance.random() < 0.5}
        if chance.random() < 0.2:
            values |= {"logprobs": chance.randrange(4)}
        if chance.random() < 0.1:
            values |= {"logit_bias": {chance.randrange(400): 30.0}}
        if chance.random() < 0.15:
            values |= {"response_format": chance.choice([Regex(_PATTERN), JsonSchema(_SCHEMA), JsonObject()])}
        if chance.random() < 0.08:
            values |= {"prompt_logprobs": chance.randrange(3), "max_tokens": chance.choice([0, 3])}
        return SamplingParams(**values)

    # --- what comes of them -----------------------------------------------------------------------------------
    def _take(self, output: StepOutput) -> None:
        assert output.request_id in self.streams, f"{output.request_id} had ended, or never began"
        stream = self.streams[output.request_id]
        stream.text += output.text
        stream.token_ids += output.token_ids
        stream.logprobs += len(output.logprobs or ())
        stream.read += (output.prompt_logprobs is not None) + (output.embedding is not None)
        if output.finish_reason is not None:
            stream.finish_reason = output.finish_reason
            assert bool(output.error) == (output.finish_reason == "error")
            self._check(stream)
            self.ended[output.finish_reason] += 1
            del self.streams[output.request_id]

    def _check(self, stream: Stream) -> None:
        request, sampling = stream.request, stream.request.sampling
        made = len(request.prior_token_ids) + len(stream.token_ids)
        assert not stream.token_ids or made <= stream.max_tokens
        assert stream.finish_reason in ("stop", "length", "cancelled", "error")
        assert stream.cancelled or stream.finish_reason != "cancelled"
        if sampling.logprobs is not None:
            assert stream.logprobs == len(stream.token_ids)
        if stream.finish_reason in ("cancelled", "error"):
            return
        assert stream.read == (request.pooling is not None or sampling.prompt_logprobs is not None)
        if stream.finish_reason == "length" and request.pooling is None:
            assert made >= stream.max_tokens
        if (
            sampling.response_format == Regex(_PATTERN)
            and not sampling.stop
            and stream.finish_reason == "stop"
        ):
            assert re.fullmatch(_PATTERN, stream.text), stream.text


def _changed(request: Request, **changes: Any) -> Request:
    return Request(**{name: getattr(request, name) for name in request.__struct_fields__} | changes)


def _greedy(engine: TorchEngine) -> list[list[int]]:
    """What it answers to all beginnings, in every workspace and with every adapter."""
    answers: dict[str, list[int]] = {}
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    for workspace, adapter, prompt in itertools.product(_WORKSPACES, ("", *_ADAPTERS), _BEGINNINGS):
        id = f"{workspace} {adapter} {prompt}"
        answers[id] = []
        request = Request(id=id, prompt=prompt, sampling=sampling, cache_salt=workspace, adapter=adapter)
        engine.submit(request)
        if len(answers) % 8 == 0:
            _collect(engine, answers)
    _collect(engine, answers)
    return [*answers.values()]


def _collect(engine: TorchEngine, answers: dict[str, list[int]]) -> None:
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids


def soak(folder: Path, requests: int, seed: int, said: Callable[[str], None] = lambda line: None) -> Soak:
    """Raises AssertionError where anything is not as it should be."""
    run = Soak(folder, requests, seed)
    run.run(said)
    engine = run.engine
    engine._model = run.model._model
    fresh = load_engine(folder, dtype="fp32")
    for name, version in run.adapters.items():
        fresh.load_adapter(name, version)
    used = engine.prefix_use.reused
    assert _greedy(engine) == _greedy(fresh), "what was kept of the soak is not what would be computed"
    assert engine.prefix_use.reused > used
    engine.check_integrity()
    engine.close()
    fresh.close()
    return run


def main() -> None:
    requests, seed = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    logging.disable()  # every injected failure would be logged with its traceback
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        run = soak(Path(folder), requests, seed, print)
    print(
        f"{run.ended.total()} requests of seed {seed} ended once each {dict(run.ended)} in {run.steps} steps, "
        f"{run.model.failed} of which failed and {run.model.not_finite} gave numbers that are not finite; "
        f"{run.pushed_out} were pushed out of memory; refused: {dict(run.refused)}. The engine is idle and intact."
    )


if __name__ == "__main__":
    main()
