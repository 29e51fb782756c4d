"""Chat completions as OpenAI's own client asks for them, whole and streamed, at a live site with real workers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone
from openai.types.chat import ChatCompletionChunk

from inference.models import Generation
from tests.load.api import CHAT, connections
from tests.load.raw_http import Answer, RawHttp
from tests.scripted_engine import CONTEXT_LENGTH, text_of
from tests.services import Site, wait_until
from tests.webapp.api.live_clients import (
    async_openai_client,
    http_client,
    key_of,
    new_key,
    openai_client,
)
from webapp.accounts.models import ApiKey, LimitRule


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


@pytest.fixture
def client(live_site: Site, key: str) -> openai.OpenAI:
    return openai_client(live_site, key)


def asking(said: str = "Hello tokens=12 rate=500", **fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": said}], **fields}


def joined(chunks: Iterable[ChatCompletionChunk], choices: int = 1) -> list[str]:
    """The text of each choice."""
    texts = [""] * choices
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


def rows_of(site: Site, completion_id: str) -> list[Generation]:
    with site.rows():
        call = uuid.UUID(hex=completion_id.removeprefix("chatcmpl-"))
        return list(Generation.objects.filter(call_id=call).order_by("choice"))


def ended(site: Site, completion_id: str, seconds: float = 15) -> list[Generation]:
    def over() -> list[Generation]:
        rows = rows_of(site, completion_id)
        return rows if all(row.is_finished for row in rows) else []

    found: list[Generation] = wait_until(over, "the generations to end", seconds)
    return found


# --- answers -----------------------------------------------------------------------------------------------------


def test_an_answer_is_as_openai_documents_it(client: openai.OpenAI, live_site: Site) -> None:
    answer = client.chat.completions.create(**asking(seed=7))
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, answer.service_tier) == ("chat.completion", "scripted", "default")
    assert str(answer.system_fingerprint).startswith("fp_")
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == text_of(7, 12)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    [row] = rows_of(live_site, answer.id)
    assert (row.text, row.purpose, row.prompt_tokens) == (
        choice.message.content,
        "api",
        answer.usage.prompt_tokens,
    )


def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        **asking(seed=8), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert joined(chunks) == [text_of(8, 12)]
    *_texts, last, usage = chunks
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("length", None)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 12


def test_the_asynchronous_client_gets_the_same(live_site: Site, key: str) -> None:
    async def ask() -> None:
        async with async_openai_client(live_site, key) as client:
            answer = await client.chat.completions.create(**asking(seed=9))
            assert answer.choices[0].message.content == text_of(9, 12)
            stream = await client.chat.completions.create(**asking(seed=9), stream=True)
            assert joined([chunk async for chunk in stream]) == [text_of(9, 12)]

    asyncio.run(ask())


def test_each_of_n_choices_is_another_answer_and_the_prompt_counts_once(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asking(seed=10), n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [text_of(10, 12, choice) for choice in range(3)]
    one = client.chat.completions.create(**asking(seed=10))
    assert answer.usage is not None
    assert one.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 36
    stream = client.chat.completions.create(**asking(seed=10), n=3, stream=True)
    assert joined(stream, 3) == texts


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = text_of(11, 12)
    stop = whole[len(whole) // 2 :][:3]
    answer = client.chat.completions.create(**asking(seed=11), stop=[stop, "no such thing"])
    [choice] = answer.choices
    assert choice.message.content == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"


def test_the_model_is_told_who_of_several_people_speaks(client: openai.OpenAI, live_site: Site) -> None:
    messages = [{"role": "user", "name": "Bob", "content": "Hello"}]
    answer = client.chat.completions.create(model="scripted", messages=messages, max_tokens=1)  # type: ignore[arg-type]
    [row] = rows_of(live_site, answer.id)
    assert row.messages == [{"role": "user", "content": "Bob: Hello"}]


def test_what_was_known_of_the_prompt_is_counted_once(client: openai.OpenAI) -> None:
    asked = asking("one two three four tokens=3 cached=5")
    answer = client.chat.completions.create(**asked, n=2)
    *_, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for usage in (answer.usage, last.usage):
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == 5


def test_max_tokens_under_both_of_its_names(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(**asking("Hello"), **{name: 3})
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


def test_logprobs_come_with_each_token_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = asking(seed=12) | {"logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(**asked)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 12
    assert all(len(item.top_logprobs) == 3 for item in logprobs.content)
    said = b"".join(bytes(item.bytes or []) for item in logprobs.content).decode(errors="replace")
    assert said == answer.choices[0].message.content
    streamed = [
        item
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs is not None
        for item in choice.logprobs.content or []
    ]
    assert streamed == logprobs.content


# --- refusals ----------------------------------------------------------------------------------------------------


def test_each_refusal_raises_the_exception_of_its_status(live_site: Site, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        openai_client(live_site, "fw-nonsense").chat.completions.create(**asking())
    assert refused.value.code == "invalid_api_key"
    files_only = new_key(live_site, "alice@example.org", "files")
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        openai_client(live_site, files_only).chat.completions.create(**asking())
    assert forbidden.value.code == "missing_scope"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**asking() | {"model": "gpt-9"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**asking(), temperature=3)
    assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(**asking(), tools=[{"type": "function", "function": {"name": "f"}}])
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asking("word " * 9000), stream=stream)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert f"{CONTEXT_LENGTH} tokens" in refused.value.message
    assert "9004 tokens" in refused.value.message


def test_a_schema_that_cannot_be_kept_to_is_refused(client: openai.OpenAI, model_site: Site) -> None:
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(model_site, key_of(model_site)).chat.completions.create(
            **asking("Hello") | {"model": "smollm2-135m-instruct"}, response_format=broken
        )
    assert (refused.value.code, refused.value.param) == ("invalid_response_format", "response_format")


def test_an_engine_that_fails_is_a_server_error_and_in_a_stream_an_event(client: openai.OpenAI) -> None:
    failing = asking("Hello tokens=12 rate=500 fail_after=5", seed=13)
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(**failing)
    assert failed.value.code == "engine_error"
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as broke:
        chunks.extend(client.chat.completions.create(**failing, stream=True))
    assert joined(chunks) == [text_of(13, 5).rstrip("\ufffd")]
    assert broke.value.code == "engine_error"


def test_a_limit_that_is_reached_is_a_rate_limit_error(live_site: Site) -> None:
    email = "limited@example.org"
    live_site.create_owner(email)
    token = key_of(live_site, email)
    with live_site.rows():
        key = ApiKey.objects.get(user__email=email)
        LimitRule.objects.create(workspace=key.workspace, api_key=key, requests_per_minute=1)
    client = openai_client(live_site, token)
    first = client.chat.completions.with_raw_response.create(**asking())
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**asking())
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) > 0


def test_of_too_many_programs_each_is_answered_or_told_when_to_come_back(
    live_site: Site, key: str, client: openai.OpenAI
) -> None:
    async def ask(connection: RawHttp) -> Answer:
        # Of 960 replies this site runs 32 at a time, for 0.2 s: however slow the machine, they come faster.
        return await connection.post(CHAT, asking("Hello tokens=1 rate=5", n=16))

    async def ask_all() -> list[Answer]:
        async with connections(live_site, key, 62) as [*opened, one, another]:
            # They take all places until there is no room for more to wait, however fast anybody is.
            for connection in (one, another):
                await anext(connection.stream(CHAT, asking("tokens=4000 rate=20", n=16, stream=True)))
            asked = [asyncio.ensure_future(ask(connection)) for connection in opened]
            for answered in asyncio.as_completed(asked):
                if (await answered).status != 200:
                    break
            one.close()
            another.close()
            return list(await asyncio.gather(*asked))

    answers = asyncio.run(ask_all())
    assert {answer.status for answer in answers} == {200, 503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status == 503)
    assert client.chat.completions.create(**asking()).choices[0].finish_reason == "length"


# --- hanging up, and coming back ---------------------------------------------------------------------------------


def first_events(response: httpx.Response, count: int) -> list[tuple[str, str]]:
    """Ids and data of so many events that have an id."""
    found, last_id = [], ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            last_id = value
        elif name == "data" and last_id:
            found.append((last_id, value))
            last_id = ""
        if len(found) == count:
            break
    return found


def content(events: Iterable[tuple[str, str]]) -> str:
    chunks = [json.loads(data) for _id, data in events if data != "[DONE]"]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def test_a_client_that_hangs_up_cancels_its_generations(live_site: Site, key: str) -> None:
    with (
        http_client(live_site, key) as http,
        http.stream(
            "POST", "/chat/completions", json=asking("tokens=4000 rate=20", stream=True, n=2)
        ) as response,
    ):
        [(_id, data)] = first_events(response, 1)
    rows = ended(live_site, json.loads(data)["id"])
    assert [row.state for row in rows] == ["cancelled", "cancelled"]
    # Within a second: at its rate, that is twenty tokens.
    assert all(row.completion_tokens <= 22 for row in rows)


def test_a_client_that_does_not_wait_for_its_answer_cancels_it(live_site: Site, key: str) -> None:
    said = f"tokens=4000 rate=20 {uuid.uuid4()}"

    def mine() -> list[Generation]:
        with live_site.rows():
            return [
                row for row in Generation.objects.order_by("-created_at")[:5] if said in str(row.messages)
            ]

    with http_client(live_site, key) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/chat/completions", json=asking(said), timeout=2)
    wait_until(lambda: [row for row in mine() if row.state == "cancelled"], "the cancellation")


def test_a_stored_stream_is_resumed_where_it_broke_off(
    live_site: Site, key: str, client: openai.OpenAI
) -> None:
    asked = asking("tokens=60 rate=40", stream=True, store=True, logprobs=True, seed=14)
    with http_client(live_site, key) as http:
        with http.stream("POST", "/chat/completions", json=asked) as response:
            before = first_events(response, 4)
        completion_id = json.loads(before[0][1])["id"]
        with http.stream(
            "GET",
            f"/chat/completions/{completion_id}",
            params={"stream": "true"},
            headers={"Last-Event-ID": before[-1][0]},
        ) as response:
            after = first_events(response, 1000)
    assert content(before) + content(after) == text_of(14, 60)
    tokens = [
        item
        for _id, data in (*before, *after)
        for choice in json.loads(data)["choices"]
        if choice["logprobs"]
        for item in choice["logprobs"]["content"]
    ]
    assert len(tokens) == 60
    [row] = rows_of(live_site, completion_id)
    assert row.state == "complete"
    stored = client.chat.completions.retrieve(completion_id)
    assert stored.choices[0].message.content == text_of(14, 60)
    client.chat.completions.delete(completion_id)


def test_the_same_idempotency_key_is_the_same_completion_and_resumes_its_stream(
    live_site: Site, key: str
) -> None:
    asked = asking("tokens=60 rate=40", stream=True, seed=15, n=2)
    once = {"Idempotency-Key": str(uuid.uuid4())}
    with http_client(live_site, key) as http:
        with http.stream("POST", "/chat/completions", json=asked, headers=once) as response:
            before = first_events(response, 5)
        again = {**once, "Last-Event-ID": before[-1][0]}
        with http.stream("POST", "/chat/completions", json=asked, headers=again) as response:
            after = first_events(response, 1000)
        texts = ["", ""]
        for _id, data in (*before, *after):
            for choice in json.loads(data)["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
        # The role of the first choice comes in an event without an id, so it is not among these.
        assert texts == [text_of(15, 60, choice) for choice in range(2)]
        other = http.post("/chat/completions", json=asked | {"seed": 16}, headers=once)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")


def test_a_whole_answer_is_the_same_under_the_same_idempotency_key(client: openai.OpenAI) -> None:
    once = {"Idempotency-Key": str(uuid.uuid4())}
    first = client.chat.completions.create(**asking(), extra_headers=once)
    again = client.chat.completions.create(**asking(), extra_headers=once)
    assert again == first


def test_a_revoked_key_ends_its_open_streams(live_site: Site) -> None:
    token = new_key(live_site)
    stream = openai_client(live_site, token).chat.completions.create(
        **asking("tokens=4000 rate=20"), stream=True
    )
    seen = [next(iter(stream))]
    with live_site.rows():
        ApiKey.objects.filter(prefix=token[:11]).update(revoked_at=timezone.now())
    with pytest.raises(openai.APIError) as ended_:
        seen.extend(stream)
    assert ended_.value.code == "invalid_api_key"
    assert [row.state for row in ended(live_site, seen[0].id)] == ["cancelled"]


# --- what dies on the way ----------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_stream_goes_on_through_a_broker_that_restarts(live_site: Site, client: openai.OpenAI) -> None:
    chunks = []
    for chunk in client.chat.completions.create(**asking("tokens=80 rate=40", seed=17), stream=True):
        chunks.append(chunk)
        if len(chunks) == 6:
            live_site.valkey.restart()
    assert joined(chunks) == [text_of(17, 80)]


@pytest.mark.faults
def test_a_stream_goes_on_with_another_worker_when_its_own_is_killed(
    live_site: Site, client: openai.OpenAI
) -> None:
    chunks = []
    for chunk in client.chat.completions.create(**asking("tokens=80 rate=40", seed=18), stream=True):
        chunks.append(chunk)
        if len(chunks) == 6:
            live_site.inference[0].kill()
            live_site.start_inference()
    assert joined(chunks) == [text_of(18, 80)]


# --- a real model ------------------------------------------------------------------------------------------------


def test_a_real_model_keeps_to_a_schema_and_to_its_seed(model_site: Site) -> None:
    client = openai_client(model_site, key_of(model_site)).with_options(timeout=150)
    asked = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Name a fruit and its colour, as JSON."}],
        "seed": 5,
        "temperature": 0.8,
        "max_tokens": 24,
    }
    schema = {
        "type": "object",
        "properties": {
            "fruit": {"enum": ["apple", "banana"]},
            "colour": {"enum": ["red", "green", "yellow"]},
        },
        "required": ["fruit", "colour"],
        "additionalProperties": False,
    }
    shaped = client.chat.completions.create(
        **asked,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "fruit", "schema": schema, "strict": True},
        },
    )
    found = json.loads(shaped.choices[0].message.content or "")
    assert set(found) == {"fruit", "colour"}
    assert found["colour"] in ("red", "green", "yellow")
    # Few tokens, and some tries: two choices may share their steps now and not then, and what is nearly tied falls
    # either way. Without its seed hardly any would be the same.
    asked["max_tokens"] = 8
    free, *others = (
        client.chat.completions.create(**asked, n=2, logprobs=True, top_logprobs=2) for _ in range(4)
    )
    for again in others:
        assert again.usage is not None
        assert again.usage.prompt_tokens_details is not None
        assert 0 < (again.usage.prompt_tokens_details.cached_tokens or 0) < again.usage.prompt_tokens
    said = [[choice.message.content for choice in answer.choices] for answer in (free, *others)]
    assert said[0] in said[1:]
    assert free.choices[0].message.content != free.choices[1].message.content
    for choice in free.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert b"".join(bytes(item.bytes or []) for item in tokens).decode() == choice.message.content
        assert all(item.logprob <= 0 and len(item.top_logprobs) == 2 for item in tokens)
