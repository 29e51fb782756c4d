"""Answers of the model that is being trained, by the engine's own path. Knows nothing of losses or steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference.engine import allocator
from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineError, NotEnoughMemory, Request
from inference.engine.loaded_model import LoadedModel
from inference.parameters import SamplingParams
from training.trainer.choices import free_memory
from training.trainer.classified import classified
from training.trainer.record import Record

logger = logging.getLogger(__name__)

_ADAPTER = "trained"
_KV_TOKENS = 4096  # of all prompts and answers
_COPIES_OF_LOGITS = 4  # while one of them is drawn from
_WORKING = 100 * 2**20  # the adapter, and what a step of so few tokens uses


@dataclass
class Sample:
    prompt: str
    answer: str = ""
    why: str = ""  # there is none: a sentence


class Samples:
    """The engine computes with the trainer's own weights; an adapter is read back from where it was saved.

    There is an engine only while it is asked. On a GPU no step of it is recorded: recordings would keep memory that the
    learning needs, and hold the addresses of weights that it changes.
    """

    def __init__(self, loaded: LoadedModel, prompts: list[str], max_tokens: int, max_rank: int) -> None:
        self._loaded, self._prompts, self._max_tokens = loaded, prompts, max_tokens
        self._max_rank = max_rank

    def ask(self, record: Record, step: int, adapter: Path | None, hurried: Callable[[], bool]) -> None:
        """Notes the answers after this step, or why there are none: whatever goes wrong, the learning goes on."""
        allocator.give_back_all()  # what passes used, before the engine takes some, and what it took, before the next
        samples, why = self._answers_or_why(str(step), adapter, hurried)
        allocator.give_back_all()
        if why:
            record.line("sample_failed", step=step, why=why)
        for sample in samples:
            about = {"step": step, "prompt": sample.prompt}
            if sample.why:
                record.line("sample_failed", **about, why=sample.why)
            else:
                record.line("sample", **about, answer=sample.answer)

    def _answers_or_why(
        self, salt: str, adapter: Path | None, hurried: Callable[[], bool]
    ) -> tuple[list[Sample], str]:
        try:
            return self._answers(salt, adapter, hurried), ""
        except EngineError as error:
            return [], str(error)
        except (RuntimeError, MemoryError) as error:  # as torch says what a GPU could not do
            failure = classified(error)
            if failure is not None and failure.code == "oom":
                return [], "There is not enough memory beside the learning to ask the prompts."
            logger.exception("the prompts could not be asked")
            return [], "The prompts could not be asked because of an error on our side."

    def _answers(self, salt: str, adapter: Path | None, hurried: Callable[[], bool]) -> list[Sample]:
        """The likeliest answer to each prompt, cut short once there is no time; `salt` names these weights.

        Raises EngineError where the adapter cannot be used, or there is no room for keys and values; and whatever
        torch raises where a GPU fails, or its memory does not do after all.
        """
        engine = self._engine()
        if adapter is not None:
            engine.load_adapter(_ADAPTER, adapter)
        is_chat = self._loaded.template is not None
        samples = {str(number): Sample(prompt) for number, prompt in enumerate(self._prompts)}
        for id, sample in samples.items():
            request = Request(
                id=id,
                messages=[{"role": "user", "content": sample.prompt}] if is_chat else None,
                prompt=None if is_chat else sample.prompt,
                sampling=SamplingParams(max_tokens=self._max_tokens, temperature=0.0),
                cache_salt=salt,
                adapter=_ADAPTER if adapter is not None else "",
            )
            try:
                engine.submit(request)
            except EngineError as error:
                sample.why = str(error)
        while engine.has_work:
            if hurried():
                for id in samples:
                    engine.cancel(id)
            for output in engine.step():
                sample = samples[output.request_id]
                sample.answer += output.text
                sample.why = output.error
        return [*samples.values()]

    def _engine(self) -> TorchEngine:
        """Raises NotEnoughMemory, before anything is taken."""
        config, model = self._loaded.config, self._loaded.model
        needed = _WORKING + _KV_TOKENS * config.kv_elements_per_token * model.dtype.itemsize
        needed += _COPIES_OF_LOGITS * len(self._prompts) * config.vocab_size * 4
        free = free_memory(model.device)
        if needed > free:
            raise NotEnoughMemory(
                f"The prompts need {needed / 1e9:.1f} GB of memory beside the learning, "
                f"and {free / 1e9:.1f} GB are free."
            )
        return TorchEngine(
            self._loaded,
            max_running=max(len(self._prompts), 1),
            kv_tokens=_KV_TOKENS,
            max_loras=1,
            max_lora_rank=self._max_rank,
            recorded=False,
        )
