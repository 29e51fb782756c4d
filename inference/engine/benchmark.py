"""How fast the engine is: decode, prefill, first token, and what a step costs beside the model. Knows no peers.

Requests are sampled at temperature 0.7 and top-p 0.9, to a fixed length: what the model says ends no measurement early.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.engine.cuda_graphs import DecodeGraphs
from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineError, InvalidRequest, Request
from inference.engine.loaded_model import LoadedModel
from inference.engine.model import LlamaModel
from inference.parameters import SamplingParams

_TEXT = (
    "On the {n}th day of the journey the travellers came to a town between two rivers, where the bridges were old and "
    "the people were kind. They asked for a room, and were told a story about the mayor, his three daughters, and a "
    "clock that had not been wound since the flood. "
)


@dataclass(frozen=True)
class Figures:
    """What was measured with so many requests at once."""

    batch: int
    decode: float  # tokens a second of all together, while every one of them is answering
    prefill: float  # tokens of prompts a second, until every one has its first token
    first_token_ms: float  # from submit; the median of the requests
    outside: float  # the share of a decode step that is not the model's forward pass


def prompts(encode: Callable[[str], list[int]], count: int, tokens: int) -> list[str]:
    """Different texts of so many tokens each. Where none has exactly as many, of one or two more."""
    return [_prompt(encode, number, tokens) for number in range(count)]


def _prompt(encode: Callable[[str], list[int]], number: int, tokens: int) -> str:
    text = _TEXT.format(n=number + 1)
    while len(encode(text)) < tokens:
        text += text
    low, high = 1, len(text)
    while low < high:
        middle = (low + high) // 2
        if len(encode(text[:middle])) < tokens:
            low = middle + 1
        else:
            high = middle
    return text[:low]


class _Stopwatch:
    """Adds up the time spent in the model."""

    def __init__(self, model: LlamaModel, graphs: DecodeGraphs | None) -> None:
        self.seconds = 0.0
        self._running = False
        timed: list[tuple[object, str]] = [(model, "forward"), (model, "logits")]
        for owner, name in timed + ([(graphs, "run")] if graphs else []):
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            # While a pass is recorded nothing may wait for it.
            if self._running:
                return function(*arguments, **named)
            started, self._running = time.perf_counter(), True
            result = function(*arguments, **named)
            if result is not None and result.is_cuda:
                torch.cuda.synchronize()
            self._running = False
            self.seconds += time.perf_counter() - started
            return result

        return timed


class Benchmark:
    """Measures one model in this process, with every option of the engine as a worker has it but speculation."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batches: list[int],
        prompt_tokens: int,
        max_tokens: int,
        compiled: Path | None,
    ) -> None:
        """`compiled` as of the engine; measuring waits for it. Raises InvalidRequest where prompt and answer are longer
        than the model's context."""
        if prompt_tokens + max_tokens > loaded.config.context_length:
            raise InvalidRequest(
                f"{prompt_tokens} tokens of prompt and {max_tokens} of answer are more than the "
                f"{loaded.config.context_length} this model reads."
            )
        self._max_tokens = max_tokens
        self.dtype = loaded.dtype
        # Guessing pays where a text repeats, and this is not to measure how much these texts do.
        self._engine = TorchEngine(
            loaded, max_running=max(32, *batches), compiled=compiled, speculation=False
        )
        self._stopwatch = _Stopwatch(loaded.model, self._engine.graphs)
        if self._engine.compiled is not None:
            self._engine.compiled.wait()
        prefix, encode = loaded.tokenizer.prompt_prefix, loaded.tokenizer.encode
        self._prompts = prompts(lambda text: prefix + encode(text), max(batches), prompt_tokens)
        self._runs = 0

    def close(self) -> None:
        self._engine.close()

    def measure(self, batch: int) -> Figures:
        """With one token each, twice, since the first time warms up; then to the full length."""
        self._run(batch, 1)
        prefill, first_token, _ = self._run(batch, 1)
        _, _, (tokens, seconds, inside) = self._run(batch, self._max_tokens)
        if not tokens:
            raise InvalidRequest(
                f"{batch} requests of {self._max_tokens} tokens are never all answering at once: ask for longer "
                "answers or for fewer requests."
            )
        return Figures(batch, tokens / seconds, prefill, first_token * 1e3, 1 - inside / seconds)

    def _run(self, batch: int, max_tokens: int) -> tuple[float, float, tuple[int, float, float]]:
        """Prompt tokens a second; seconds to the first token; and of the steps in which all answer and none begins:
        tokens, seconds, and seconds of these in the model."""
        self._runs += 1
        sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=max_tokens, ignore_eos=True)
        started = time.perf_counter()
        known = 0
        for number in range(batch):
            request = Request(
                id=str(number), prompt=self._prompts[number], sampling=sampling, seed=number,
                cache_salt=str(self._runs),  # so that no run finds another's prompts computed
            )  # fmt: skip
            known += self._engine.submit(request).prompt_tokens
        first: dict[str, float] = {}
        tokens, seconds, inside = 0, 0.0, 0.0
        while self._engine.has_work:
            before, model_before = time.perf_counter(), self._stopwatch.seconds
            all_answer = len(first) == batch
            outputs = self._engine.step()
            now = time.perf_counter()
            for output in outputs:
                if output.finish_reason == "error":
                    raise EngineError(output.error)
                first.setdefault(output.request_id, now - started)
            if all_answer and len(outputs) == batch:
                tokens += sum(len(output.token_ids) for output in outputs)
                seconds += now - before
                inside += self._stopwatch.seconds - model_before
        return known / max(first.values()), statistics.median(first.values()), (tokens, seconds, inside)
