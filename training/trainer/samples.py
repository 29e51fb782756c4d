"""Answers of the model that is being trained, by the engine's own path. Knows nothing of losses or steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineError, Request
from inference.engine.loaded_model import LoadedModel
from inference.parameters import SamplingParams

_ADAPTER = "trained"


class Samples:
    """The engine computes with the trainer's own weights; an adapter is read back from where it was saved."""

    def __init__(self, loaded: LoadedModel, prompts: list[str], max_tokens: int, max_rank: int) -> None:
        self._prompts, self._max_tokens = prompts, max_tokens
        self._engine = TorchEngine(
            loaded, max_running=max(len(prompts), 1), kv_tokens=4096, max_loras=1, max_lora_rank=max_rank
        )
        self._is_chat = loaded.template is not None

    def answers(self, salt: str, adapter: Path | None, hurried: Callable[[], bool]) -> list[tuple[str, str]]:
        """Each prompt and the likeliest answer to it, cut short once there is no time; `salt` names these weights.

        Raises EngineError.
        """
        if adapter is not None:
            self._engine.load_adapter(_ADAPTER, adapter)
        texts = dict.fromkeys(map(str, range(len(self._prompts))), "")
        for id, prompt in zip(texts, self._prompts, strict=True):
            self._engine.submit(
                Request(
                    id=id,
                    messages=[{"role": "user", "content": prompt}] if self._is_chat else None,
                    prompt=None if self._is_chat else prompt,
                    sampling=SamplingParams(max_tokens=self._max_tokens, temperature=0.0),
                    cache_salt=salt,
                    adapter=_ADAPTER if adapter is not None else "",
                )
            )
        while self._engine.has_work:
            if hurried():
                for id in texts:
                    self._engine.cancel(id)
            for output in self._engine.step():
                texts[output.request_id] += output.text
                if output.finish_reason == "error":
                    raise EngineError(output.error)
        return list(zip(self._prompts, texts.values(), strict=True))
