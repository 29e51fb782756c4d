"""How well a model predicts a text. Knows nothing of files or of how the text is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineError, InvalidRequest, Request
from inference.parameters import SamplingParams


@dataclass(frozen=True)
class Perplexity:
    perplexity: float
    tokens: int  # that were predicted


def perplexity(engine: TorchEngine, text: str, window: int) -> Perplexity:
    """exp of the mean negative logprob of the text's tokens, in windows of so many that do not overlap.

    Each window begins as the vocabulary begins a text; its very first token is predicted by nothing and not counted.
    """
    most = engine.context_length - 1
    if not 2 <= window <= most:
        raise InvalidRequest(f"A window of {window} tokens is not possible; this model takes 2 to {most}.")
    prefix = engine.tokenizer.prompt_prefix
    ids = engine.tokenizer.encode(text)
    size = window - len(prefix)
    total, count = 0.0, 0
    for start in range(0, len(ids), size):
        window_ids = prefix + ids[start : start + size]
        sampling = SamplingParams(max_tokens=0, prompt_logprobs=0)
        engine.submit(Request(id="window", prompt_token_ids=window_ids, sampling=sampling))
        while engine.has_work:
            for output in engine.step():
                if output.finish_reason == "error":
                    raise EngineError(output.error)
                logprobs = [s.logprob for s in output.prompt_logprobs or [] if s.logprob is not None]
                total -= math.fsum(logprobs)
                count += len(logprobs)
    if not count:
        raise InvalidRequest("The text is too short: there is no token in it that could be predicted.")
    return Perplexity(math.exp(total / count), count)
