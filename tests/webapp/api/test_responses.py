"""/v1/responses, as OpenAI's client asks for them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel
from tests.scripted_engine import CONTEXT_LENGTH
from tests.services import Site, wait_until
from tests.webapp.api.conftest import key_client
from tests.webapp.api.live_clients import async_openai_client, http_client, key_of, openai_client, outsider
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.api.models import Completion

ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def long_answer(words: int, rate: int) -> str:
    """What the scripted engine answers in so many words, so many of them a second."""
    return f"rate={rate} tokens={words} say={'_'.join(['word'] * words)}"


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


@pytest.fixture
def client(live_site: Site, key: str) -> openai.OpenAI:
    return openai_client(live_site, key)


@pytest.fixture
def http(live_site: Site, key: str) -> httpx.Client:
    return http_client(live_site, key)


# --- asking ------------------------------------------------------------------------------------------------------


def test_a_response_is_created_retrieved_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="scripted",
        input="cached=2 say=Quiet_harbours",
        instructions="Be brief.",
        max_output_tokens=10,
        temperature=0.5,
        top_p=0.9,
        metadata={"for": "a test"},
        user="somebody",
    )
    assert made.id.startswith("resp_")
    assert (made.object, made.status, made.output_text) == ("response", "completed", "Quiet harbours ")
    assert (made.instructions, made.max_output_tokens, made.temperature) == ("Be brief.", 10, 0.5)
    assert (made.top_p, made.metadata, made.user, made.model) == (
        0.9,
        {"for": "a test"},
        "somebody",
        "scripted",
    )
    assert made.usage is not None
    assert (made.usage.output_tokens, made.usage.total_tokens) == (2, made.usage.input_tokens + 2)
    assert made.usage.input_tokens_details.cached_tokens == 2
    assert made.completed_at is not None
    assert (made.error, made.incomplete_details, made.previous_response_id) == (None, None, None)
    assert client.responses.retrieve(made.id) == made
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_a_response_goes_on_from_the_one_before_it(live_site: Site, client: openai.OpenAI) -> None:
    first = client.responses.create(model="scripted", input="say=First_answer", instructions="Speak Latin.")
    second = client.responses.create(
        model="scripted", input="say=Second_answer", previous_response_id=first.id
    )
    assert (second.previous_response_id, second.instructions) == (first.id, None)
    client.responses.delete(first.id)
    third = client.responses.create(
        model="scripted",
        previous_response_id=second.id,
        input=[
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "say=Third"}, {"type": "input_text", "text": "!"}],
            },
        ],
    )
    with live_site.rows():
        asked = Generation.objects.get(call_id=third.id.removeprefix("resp_")).messages
    assert [(turn["role"], turn["content"]) for turn in asked] == [
        ("user", "say=First_answer"),
        ("assistant", "First answer "),
        ("user", "say=Second_answer"),
        ("assistant", "Second answer "),
        ("system", "Be kind."),
        ("user", "say=Third\n!"),
    ]
    items = client.responses.input_items.list(third.id, limit=4, order="asc").data
    assert items[1].id == first.output[0].id
    assert items[3].id == second.output[0].id
    listed = list(client.responses.input_items.list(third.id, limit=4))
    assert [item.role for item in listed] == ["user", "developer", "assistant", "user", "assistant", "user"]
    assert listed[2].content[0].text == "Second answer "
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_items.list(third.id, after="msg_nothing")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "after")


def test_what_was_answered_may_be_sent_back_as_it_came(live_site: Site, client: openai.OpenAI) -> None:
    first = client.responses.create(model="scripted", input="say=First_answer", store=False)
    history: Any = [{"role": "user", "content": "say=First_answer"}, *first.output]
    history.append({"type": "message", "role": "user", "content": "say=Again"})
    again = client.responses.create(model="scripted", input=history)
    with live_site.rows():
        asked = Generation.objects.get(call_id=again.id.removeprefix("resp_")).messages
    assert [turn["content"] for turn in asked] == ["say=First_answer", "First answer ", "say=Again"]


def test_what_is_not_to_be_stored_is_not_there_to_be_asked_for(client: openai.OpenAI) -> None:
    passing = client.responses.create(model="scripted", input="say=Passing", store=False)
    assert passing.output_text == "Passing "
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(passing.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="scripted", input="x", previous_response_id=passing.id)
    assert (refused.value.code, refused.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )


def test_an_answer_that_reaches_its_limit_is_incomplete(client: openai.OpenAI) -> None:
    cut = client.responses.create(model="scripted", input="Go on", max_output_tokens=3)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[0].status == "incomplete"
    assert cut.completed_at is None


def test_an_answer_that_breaks_off_has_failed(client: openai.OpenAI) -> None:
    broken = client.responses.create(model="scripted", input="rate=200 fail_after=5")
    assert (broken.status, broken.error and broken.error.code) == ("failed", "server_error")
    assert broken.output_text
    assert client.responses.retrieve(broken.id) == broken


def test_too_long_an_input_is_refused_with_both_figures_and_is_not_kept(
    live_site: Site, client: openai.OpenAI
) -> None:
    begun = timezone.now()
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="scripted", input="word " * 9000, stream=stream)  # type: ignore[call-overload]
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
        assert str(CONTEXT_LENGTH) in str(refused.value)
    with live_site.rows():
        assert not Completion.objects.filter(kind="response", created_at__gte=begun).exists()


# --- streaming ---------------------------------------------------------------------------------------------------


def kinds_of(events: list[Any]) -> list[str]:
    """Each once, in the order they first came."""
    return list(dict.fromkeys(event.type for event in events))


def test_a_stream_has_openais_events_in_their_order(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="scripted", input=long_answer(30, 100), stream=True))
    assert kinds_of(events) == ORDER
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert numbers[:4] == [0, 1, 2, 3]
    created, completed = events[0].response, events[-1].response
    assert (created.status, created.output, created.usage) == ("in_progress", [], None)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert completed.output_text == text == events[-4].text == events[-3].part.text
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {completed.output[0].id}
    assert client.responses.retrieve(completed.id) == completed
    again = list(client.responses.retrieve(completed.id, stream=True))
    assert kinds_of(again) == ORDER
    assert again[-1] == events[-1]


def test_the_clients_own_helper_makes_the_same_of_it(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="say=Quiet_harbours") as stream:
        for _event in stream:
            pass
        assert stream.get_final_response().output_text == "Quiet harbours "


def test_a_lost_stream_goes_on_behind_the_last_number(http: httpx.Client, client: openai.OpenAI) -> None:
    with client.responses.create(model="scripted", input=long_answer(80, 60), stream=True) as stream:
        seen = []
        for event in stream:
            seen.append(event)
            if sum(event.type == "response.output_text.delta" for event in seen) == 4:
                break
    last = seen[-1].sequence_number
    response_id = seen[0].response.id
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert rest[0].sequence_number > last
    deltas = [event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == rest[-1].response.output_text
    assert rest[-1].response.status == "completed"
    # At any other place, too: what is left of all events is what was behind it.
    everything = list(client.responses.retrieve(response_id, stream=True))
    for after in (0, 2, 3, last + 5, everything[-1].sequence_number - 2, everything[-1].sequence_number):
        left = list(client.responses.retrieve(response_id, stream=True, starting_after=after))
        assert all(event.sequence_number > after for event in left)
        wanted = [event for event in everything if event.sequence_number > after]
        assert [event.type for event in left] == [event.type for event in wanted]
    with http.stream(
        "GET", f"/responses/{response_id}?stream=true", headers={"Last-Event-ID": "3"}
    ) as answer:
        first = next(answer.iter_lines())
    assert first == "event: response.output_text.delta"
    wrong = http.get(f"/responses/{response_id}?stream=true", headers={"Last-Event-ID": "yesterday"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_a_stream_says_how_it_ended(client: openai.OpenAI) -> None:
    cut = list(client.responses.create(model="scripted", input="x", max_output_tokens=2, stream=True))
    assert (cut[-1].type, cut[-1].response.status) == ("response.incomplete", "incomplete")
    broken = list(client.responses.create(model="scripted", input="rate=200 fail_after=5", stream=True))
    assert (broken[-1].type, broken[-1].response.status) == ("response.failed", "failed")
    assert broken[-2].type == "response.output_item.done"


def test_who_hangs_up_on_what_is_not_kept_cancels_it(live_site: Site, client: openai.OpenAI) -> None:
    with client.responses.create(
        model="scripted", input="tokens=4000 rate=50", stream=True, store=False
    ) as stream:
        created = next(iter(stream)).response
    with live_site.rows():
        row = Generation.objects.filter(call_id=created.id.removeprefix("resp_"))
        wait_until(lambda: row.get().state == "cancelled", "the response to be cancelled")


# --- later -------------------------------------------------------------------------------------------------------


def test_in_the_background_it_is_asked_for_until_it_is_there(client: openai.OpenAI) -> None:
    queued = client.responses.create(model="scripted", input="say=Later_on", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    done = wait_until(
        lambda: (r := client.responses.retrieve(queued.id)).status == "completed" and r, "it", 10
    )
    assert done.output_text == "Later on "
    events = list(client.responses.create(model="scripted", input="say=Later", background=True, stream=True))
    assert kinds_of(events) == [ORDER[0], "response.queued", *ORDER[1:]]
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="scripted", input="x", background=True, store=False)
    assert refused.value.param == "background"


def test_it_is_cancelled_and_keeps_what_it_said(client: openai.OpenAI) -> None:
    with client.responses.create(
        model="scripted", input="tokens=4000 rate=50", background=True, stream=True
    ) as stream:
        events = []
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
        running = client.responses.retrieve(events[0].response.id)
        assert (running.status, running.usage) == ("in_progress", None)
        with pytest.raises(openai.BadRequestError) as early:
            client.responses.create(model="scripted", input="x", previous_response_id=running.id)
        assert early.value.code == "previous_response_not_finished"
        cancelled = client.responses.cancel(running.id)
        events += stream
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.output[0].status == "incomplete"
    assert cancelled.output_text
    assert (events[-1].type, events[-1].response) == ("response.incomplete", cancelled)
    assert client.responses.cancel(running.id) == cancelled
    after = client.responses.create(model="scripted", input="say=Yes", previous_response_id=running.id)
    assert after.output_text == "Yes "


def test_what_goes_on_in_the_background_needs_no_reader(live_site: Site, client: openai.OpenAI) -> None:
    with client.responses.create(
        model="scripted", input=long_answer(100, 100), background=True, stream=True
    ) as stream:
        created = next(iter(stream)).response
    wait_until(lambda: client.responses.retrieve(created.id).status == "completed", "it to be complete")


def test_the_same_idempotency_key_answers_once(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": f"responses-{timezone.now().timestamp()}"}
    first = client.responses.create(model="scripted", input="say=Once", extra_headers=headers)
    assert client.responses.create(model="scripted", input="say=Once", extra_headers=headers) == first
    with pytest.raises(openai.BadRequestError) as reused:
        client.responses.create(model="scripted", input="say=Twice", extra_headers=headers)
    assert reused.value.code == "idempotency_key_reused"
    headers = {"Idempotency-Key": f"stream-{timezone.now().timestamp()}"}
    with client.responses.create(
        model="scripted", input=long_answer(40, 60), stream=True, extra_headers=headers
    ) as stream:
        seen = [next(iter(stream)) for _ in range(6)]
    again = client.responses.create(
        model="scripted",
        input=long_answer(40, 60),
        stream=True,
        extra_headers=headers | {"Last-Event-ID": str(seen[-1].sequence_number)},
    )
    deltas = [event.delta for event in [*seen, *again] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "word " * 40


async def test_the_asynchronous_client_responds_too(live_site: Site, key: str) -> None:
    async with async_openai_client(live_site, key) as client:
        made = await client.responses.create(model="scripted", input="say=Hello_there")
        assert (await client.responses.retrieve(made.id)).output_text == "Hello there "
        stream = await client.responses.create(
            model="scripted", input="say=And_you", previous_response_id=made.id, stream=True
        )
        events = [event async for event in stream]
        assert kinds_of(events) == ORDER
        items = [item async for item in client.responses.input_items.list(events[-1].response.id, limit=1)]
        assert len(items) == 3
        await client.responses.cancel(made.id)
        await client.responses.delete(made.id)


# --- refusing ----------------------------------------------------------------------------------------------------

UNSUPPORTED: dict[str, Any] = {
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "tool_choice": "required",
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "truncation": "auto",
    "conversation": "conv_1",
    "max_tool_calls": 3,
    "service_tier": "flex",
    "top_logprobs": 3,
    "prompt": {"id": "pmpt_1"},
    "something_new": 1,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(name: str, alices: Client, model: ServedModel) -> None:
    body = {"model": "demo", "input": "Hi", name: UNSUPPORTED[name]}
    answer = alices.post("/v1/responses", body, content_type="application/json")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert name in error["message"]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no input": ({"input": []}, "invalid_value", "input"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "unsupported_parameter",
        "input.0.content.0.type",
    ),
    "a call of a function": (
        {"input": [{"type": "function_call", "name": "f", "arguments": "", "call_id": "c"}]},
        "unsupported_parameter",
        "input.0.type",
    ),
    "an unknown role": ({"input": [{"role": "tool", "content": "x"}]}, "invalid_value", "input.0.role"),
    "too hot": ({"temperature": 3}, "invalid_value", "temperature"),
    "a text as a number": ({"max_output_tokens": "5"}, "invalid_type", "max_output_tokens"),
    "an unknown format": ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format"),
    "a schema without a name": (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "missing_required_parameter",
        "text.format.name",
    ),
    "an unknown model": ({"model": "gpt-5"}, "model_not_found", "model"),
    "an id of nothing": (
        {"previous_response_id": "resp_1"},
        "previous_response_not_found",
        "previous_response_id",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what: str, alices: Client, model: ServedModel) -> None:
    change, code, param = WRONG[what]
    answer = alices.post(
        "/v1/responses", {"model": "demo", "input": "Hi", **change}, content_type="application/json"
    )
    error = answer.json()["error"]
    assert (answer.status_code in (400, 404), error["code"], error["param"]) == (True, code, param)
    assert not Completion.objects.exists()


def response_of(user: User, workspace: Workspace, model: ServedModel) -> str:
    now = timezone.now()
    completion = Completion.objects.create(
        workspace=workspace, user=user, kind="response", model_name=model.name, store=True,
        request={"items": [["msg_1", "user"]]},
    )  # fmt: skip
    Generation.objects.create(
        workspace=workspace, model=model, seed=1, deadline=now, sent_at=now, state="complete", text="Secret",
        messages=[{"role": "user", "content": "Secret"}], call_id=completion.pk, finish_reason="stop", purpose="api",
    )  # fmt: skip
    return f"resp_{completion.pk.hex}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "?stream=true"),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ],
)
def test_for_everybody_else_a_response_does_not_exist(
    method: str, path: str, alice: User, bob: User, charlie: User,
    workspace: Workspace, elsewhere: Workspace, model: ServedModel,
) -> None:  # fmt: skip
    response_id = response_of(alice, workspace, model)
    Membership.objects.create(user=alice, workspace=elsewhere, role=Role.MEMBER)
    others = [
        key_client(bob, workspace, "chat"),
        key_client(charlie, elsewhere),
        key_client(alice, elsewhere, "chat"),
    ]
    for other in others:
        answer = other.generic(method, f"/v1/responses/{response_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        body = {"model": "demo", "input": "Go on", "previous_response_id": response_id}
        went_on = other.post("/v1/responses", body, content_type="application/json")
        assert went_on.json()["error"]["code"] == "previous_response_not_found"
    assert Client().generic(method, f"/v1/responses/{response_id}{path}").status_code == 401
    assert Generation.objects.filter(text="Secret", state="complete").count() == 1
    for nonsense in ("x", "resp_", "resp_" + "0" * 32, response_id.removeprefix("resp_")):
        assert others[0].generic(method, f"/v1/responses/{nonsense}{path}").status_code == 404


def test_an_outsider_cannot_follow_a_live_one(live_site: Site, client: openai.OpenAI) -> None:
    stranger = openai_client(live_site, outsider(live_site))
    with client.responses.create(
        model="scripted", input="tokens=2000 rate=50", background=True, stream=True
    ) as stream:
        created = next(iter(stream)).response
        for ask in (
            lambda: stranger.responses.retrieve(created.id, stream=True),
            lambda: stranger.responses.cancel(created.id),
            lambda: stranger.responses.input_items.list(created.id),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
    assert client.responses.cancel(created.id).status == "cancelled"


# --- a real model ------------------------------------------------------------------------------------------------


def test_a_real_model_keeps_to_a_schema(model_site: Site) -> None:
    client = openai_client(model_site, key_of(model_site))
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "capital": {"type": "boolean"}},
        "required": ["city", "capital"],
        "additionalProperties": False,
    }
    made = client.responses.create(
        model="smollm2-135m-instruct",
        input="Name a city in France as JSON.",
        temperature=0,
        max_output_tokens=60,
        text={"format": {"type": "json_schema", "name": "city", "schema": schema, "strict": True}},
    )
    assert set(json.loads(made.output_text)) == {"city", "capital"}
    assert made.text is not None
    assert made.text.format is not None
    assert made.text.format.type == "json_schema"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(
            model="smollm2-135m-instruct",
            input="x",
            text={"format": {"type": "json_schema", "name": "bad", "schema": {"type": "nonsense"}}},
        )
    assert (refused.value.code, refused.value.param) == ("invalid_response_format", "text.format")
