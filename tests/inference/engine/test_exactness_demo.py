"""The demo model in fp32 says, token for token, what transformers says: alone, batched, and close to it in bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.loaded_model import LoadedModel
from inference.parameters import SamplingParams
from tests.inference.engine.references import kept_reference
from tests.inference.engine.running import Answer, assert_greedy, chat, run

PROMPTS = [
    "What is the capital of France?",
    "Write a poem about the sea.",
    "Explain photosynthesis to a child.",
    "List five uses for a brick.",
    "def quicksort(items):",
    "Translate to Spanish: The cat sleeps on the sofa.",
    "12 * 34 = ?",
    "Qu'est-ce que la liberté ?",
    "写一个关于月亮的故事。",
    "🙂🙃🚀 What do these mean?",
    "Summarise: " + "The committee met on Tuesday and discussed the budget for the coming year. " * 12,
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet, and when?",
    "\n\n   Indented   and    spaced   \n",
    "Continue: Once upon a time in a village far away",
    "SELECT name FROM users WHERE",
    "Is a tomato a fruit or a vegetable? Answer in one word.",
    "What are the differences between TCP and UDP?",
    "a",
    "How do I reset my password? " * 30,
]
TOKENS = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)


Loaded = Callable[[str], LoadedModel]


@pytest.fixture(scope="module")
def reference(demo_model_folder: Path) -> PreTrainedModel:
    return kept_reference(next(demo_model_folder.glob("*.gguf")))


@pytest.fixture(scope="module")
def engine(loaded_demo: Loaded) -> TorchEngine:
    return TorchEngine(loaded_demo("fp32"))


@pytest.fixture(scope="module")
def agreed(engine: TorchEngine, reference: PreTrainedModel) -> Callable[[Request, Answer], None]:
    """Asserts that an answer is the reference's, which is asked once about each: mostly both ways give the same."""
    asked: set[tuple[str, tuple[int, ...]]] = set()

    def agreed(request: Request, answer: Answer) -> None:
        assert len(answer.token_ids) == 64
        if (request.id, tuple(answer.token_ids)) not in asked:
            assert_greedy(reference, engine.encode_prompt(request), answer.token_ids)
            asked.add((request.id, tuple(answer.token_ids)))

    return agreed


def _requests() -> list[Request]:
    return [chat(prompt, id=str(n), sampling=TOKENS) for n, prompt in enumerate(PROMPTS)]


# Eight seconds each: the longest, the shortest, and some between. All are asked together below.
@pytest.mark.parametrize("number", [0, 4, 8, 10, 13, 18, 19])
def test_alone_every_token_is_that_of_transformers(
    number: int, engine: TorchEngine, agreed: Callable[[Request, Answer], None]
) -> None:
    request = _requests()[number]
    (answer,) = run(engine, request)
    agreed(request, answer)


def test_together_every_token_is_that_of_transformers(
    engine: TorchEngine, agreed: Callable[[Request, Answer], None]
) -> None:
    requests = _requests()
    for request, answer in zip(requests, run(engine, *requests), strict=True):
        agreed(request, answer)


@pytest.mark.parametrize(("dtype", "agreement"), [("bf16", 0.9), ("int8", 0.9)])
def test_in_lower_precision_nearly_every_token_is_the_likeliest(
    dtype: str, agreement: float, loaded_demo: Loaded, reference: PreTrainedModel
) -> None:
    engine = TorchEngine(loaded_demo(dtype))
    sampling = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    requests = [chat(prompt, id=str(n), sampling=sampling) for n, prompt in enumerate(PROMPTS[:8])]
    best = total = 0
    for request, answer in zip(requests, run(engine, *requests), strict=True):
        prompt = engine.encode_prompt(request)
        with torch.inference_mode():
            ids = torch.tensor([prompt + answer.token_ids])
            logits = reference(ids, logits_to_keep=len(answer.token_ids) + 1).logits[0, :-1]
        best += int((logits.argmax(dim=1) == torch.tensor(answer.token_ids)).sum())
        total += len(answer.token_ids)
    assert best / total > agreement
