"""Answers of the model that is being trained, by the engine's own path. Knows nothing of losses or steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineError, Request
from inference.engine.loaded_model import LoadedModel
from inference.parameters import SamplingParams

_ADAPTER = "trained"


@dataclass
class Sample:
    prompt: str
    answer: str = ""
    why: str = ""  # there is none: a sentence


class Samples:
    """The engine computes with the trainer's own weights; an adapter is read back from where it was saved."""

    def __init__(self, loaded: LoadedModel, prompts: list[str], max_tokens: int, max_rank: int) -> None:
        self._prompts, self._max_tokens = prompts, max_tokens
        self._engine = TorchEngine(
            loaded, max_running=max(len(prompts), 1), kv_tokens=4096, max_loras=1, max_lora_rank=max_rank
        )
        self._is_chat = loaded.template is not None

    def answers(self, salt: str, adapter: Path | None, hurried: Callable[[], bool]) -> list[Sample]:
        """The likeliest answer to each prompt, cut short once there is no time; `salt` names these weights.

        Nothing is left in the engine. Raises EngineError where the adapter cannot be used.
        """
        if adapter is not None:
            self._engine.load_adapter(_ADAPTER, adapter)
        samples = {str(number): Sample(prompt) for number, prompt in enumerate(self._prompts)}
        for id, sample in samples.items():
            request = Request(
                id=id,
                messages=[{"role": "user", "content": sample.prompt}] if self._is_chat else None,
                prompt=None if self._is_chat else sample.prompt,
                sampling=SamplingParams(max_tokens=self._max_tokens, temperature=0.0),
                cache_salt=salt,
                adapter=_ADAPTER if adapter is not None else "",
            )
            try:
                self._engine.submit(request)
            except EngineError as error:
                sample.why = str(error)
        while self._engine.has_work:
            if hurried():
                for id in samples:
                    self._engine.cancel(id)
            for output in self._engine.step():
                sample = samples[output.request_id]
                sample.answer += output.text
                sample.why = output.error
        return [*samples.values()]
