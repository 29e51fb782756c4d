"""Completions of the older kind, as OpenAI's own client asks for them: prompts that are continued as they are."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types import Completion

from tests.scripted_engine import prompt_tokens_of, text_of
from tests.services import Site
from tests.webapp.api.live_clients import async_openai_client, key_of, openai_client

PROMPT = "Once upon a time tokens=6 rate=500"


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


@pytest.fixture
def client(live_site: Site, key: str) -> openai.OpenAI:
    return openai_client(live_site, key)


def asking(prompt: Any = PROMPT, **fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "prompt": prompt, "seed": 3, **fields}


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(**asking())
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "scripted")
    [choice] = answer.choices
    assert (choice.text, choice.index, choice.finish_reason) == (text_of(3, 6), 0, "length")
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens == len(prompt_tokens_of(PROMPT))


def test_without_a_limit_there_are_sixteen_tokens(client: openai.OpenAI) -> None:
    usage = client.completions.create(**asking("Once upon a time")).usage
    assert usage is not None
    assert usage.completion_tokens == 16


def test_choices_of_several_prompts_come_prompt_by_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(**asking([PROMPT, "Then tokens=4 rate=500"]), n=2)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts == [text_of(3, 6, 0), text_of(3, 6, 1), text_of(3, 4, 2), text_of(3, 4, 3)]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt_tokens_of(PROMPT)) + 3
    assert answer.usage.completion_tokens == 20


def test_token_ids_are_prompts_too(client: openai.OpenAI) -> None:
    one = client.completions.create(**asking([5, 6, 7]), max_tokens=4)
    two = client.completions.create(**asking([[5, 6, 7], [8]]), max_tokens=4)
    assert [choice.text for choice in one.choices] == [text_of(3, 4)]
    assert len(two.choices) == 2
    assert two.usage is not None
    assert two.usage.prompt_tokens == 4


@pytest.mark.parametrize("prompt", [PROMPT, [5, 6, 7]])
def test_echo_puts_the_prompt_before_the_text_and_its_tokens_before_the_others(
    client: openai.OpenAI, prompt: Any
) -> None:
    asked = asking(prompt, echo=True, logprobs=2, max_tokens=6)
    [choice] = client.completions.create(**asked).choices
    said = b"".join(piece for _id, piece in prompt_tokens_of(prompt)).decode()
    assert choice.text == said + text_of(3, 6)
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.text_offset is not None
    assert len(logprobs.tokens) == len(prompt_tokens_of(prompt)) + 6
    assert (logprobs.token_logprobs[0], logprobs.top_logprobs[0], logprobs.text_offset[0]) == (None, None, 0)
    assert all(number is not None for number in logprobs.token_logprobs[1:])
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs[1:])
    for token, at in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[at:].startswith(token)
    pieces = list(client.completions.create(**asked, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    parts = [piece.choices[0].logprobs for piece in pieces]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        whole = [item for part in parts if part for item in getattr(part, name)]
        assert whole == getattr(logprobs, name)


def test_a_prompt_is_scored_without_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(**asking(), echo=True, logprobs=0, max_tokens=0)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == len(prompt_tokens_of(PROMPT))


def test_streams_have_the_shape_of_whole_answers(live_site: Site, key: str) -> None:
    import asyncio

    async def ask() -> list[Completion]:
        async with async_openai_client(live_site, key) as client:
            stream = await client.completions.create(
                **asking(), n=2, stream=True, stream_options={"include_usage": True}
            )
            return [chunk async for chunk in stream]

    *chunks, last = asyncio.run(ask())
    texts = ["", ""]
    for chunk in chunks:
        assert (chunk.object, chunk.usage) == ("text_completion", None)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [text_of(3, 6, choice) for choice in range(2)]
    assert last.usage is not None
    assert last.usage.completion_tokens == 12


def test_a_prompt_that_does_not_fit_names_its_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**asking(["short", "word " * 9000]))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
