"""What chat completions and completions are asked with: every field's range, and what is refused by its name."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel, Worker
from webapp.accounts.erasure import erase_user
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.api.models import Completion

pytestmark = pytest.mark.django_db
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
TEXT = {"model": "demo", "prompt": "Once upon a time"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
UNNAMED = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "thing", "schema": {"type": "object"}}}


def post(client: Client, path: str, body: Any) -> Any:
    return client.post(f"/v1/{path}", body, content_type="application/json")


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **more}]}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"temperature": "0.5"}, "invalid_type", "temperature"),
        ({"top_p": -0.1}, "invalid_value", "top_p"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 17}, "invalid_value", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"stop": ["a", ""]}, "invalid_value", "stop.1"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"seed": 2**63}, "invalid_json", None),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"5": 101}}, "invalid_value", "logit_bias.5"),
        ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
        ({"frequency_penalty": -3}, "invalid_value", "frequency_penalty"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "unsupported_parameter",
            "stream_options.include_obfuscation",
        ),
        ({"user": 5}, "invalid_type", "user"),
        ({"model": None}, "invalid_type", "model"),
        ({"model": "nothing"}, "model_not_found", "model"),
        ({"no_such_thing": 1}, "unsupported_parameter", "no_such_thing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("path", "body"), [("chat/completions", CHAT), ("completions", TEXT)])
def test_what_is_out_of_range_is_refused_with_the_name_of_the_field(
    path: str, body: dict[str, Any], fields: dict[str, Any], code: str, param: str | None,
    alices: Client, model: ServedModel,
) -> None:  # fmt: skip
    answer = post(alices, path, body | fields)
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    assert error["message"].endswith(".")
    assert not Completion.objects.exists()


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "Hello"}, "invalid_type", "messages"),
        (says("tool", "4", tool_call_id="1"), "unsupported_parameter", "messages.0.role"),
        (says("function", "4"), "unsupported_parameter", "messages.0.role"),
        (says("somebody", "4"), "invalid_value", "messages.0.role"),
        (says("user", None), "invalid_type", "messages.0.content"),
        (says("user", []), "invalid_value", "messages.0.content"),
        (says("user", "Hello", name="Bob Brown"), "invalid_value", "messages.0.name"),
        (says("assistant", "Hello", name="Bob"), "unsupported_parameter", "messages.0.name"),
        (says("user", [IMAGE]), "unsupported_parameter", "messages.0.content.0.type"),
        (says("user", [{"type": "input_audio"}]), "unsupported_parameter", "messages.0.content.0.type"),
        (says("assistant", "x", tool_calls=[{"id": "1"}]), "unsupported_parameter", "messages.0.tool_calls"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
        ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions"),
        ({"audio": {"voice": "x", "format": "wav"}}, "unsupported_parameter", "audio"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"prediction": {"type": "content"}}, "unsupported_parameter", "prediction"),
        ({"web_search_options": {}}, "unsupported_parameter", "web_search_options"),
        ({"service_tier": "priority"}, "unsupported_parameter", "service_tier"),
        ({"reasoning_effort": "high"}, "unsupported_parameter", "reasoning_effort"),
        ({"verbosity": "low"}, "unsupported_parameter", "verbosity"),
        ({"logprobs": 1}, "invalid_type", "logprobs"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": -1}, "invalid_value", "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "invalid_value", "max_tokens"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata"),
        ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format"),
        ({"response_format": {"type": "json_schema"}}, "missing_required_parameter", "response_format.json_schema"),
        ({"response_format": UNNAMED}, "missing_required_parameter", "response_format.json_schema.name"),
    ],
)  # fmt: skip
def test_a_chat_completion_takes_text_and_refuses_everything_else_by_its_name(
    fields: dict[str, Any], code: str, param: str, alices: Client, model: ServedModel
) -> None:
    answer = post(alices, "chat/completions", CHAT | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "invalid_type", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [[]]}, "invalid_value", "prompt.0"),
        ({"prompt": ["a", 5]}, "invalid_type", "prompt.1"),
        ({"prompt": [-1]}, "invalid_value", "prompt.0"),
        ({"prompt": ["a"] * 129}, "invalid_value", "prompt"),
        ({"suffix": "the end"}, "unsupported_parameter", "suffix"),
        ({"best_of": 3}, "unsupported_parameter", "best_of"),
        ({"logprobs": 6}, "invalid_value", "logprobs"),
        ({"logprobs": True}, "invalid_type", "logprobs"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"messages": []}, "unsupported_parameter", "messages"),
    ],
)
def test_a_completion_takes_prompts_and_refuses_what_is_not_supported(
    fields: dict[str, Any], code: str, param: str, alices: Client, model: ServedModel
) -> None:
    answer = post(alices, "completions", TEXT | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def worker(**fields: Any) -> Worker:
    soon = timezone.now() + timezone.timedelta(seconds=60)
    return Worker.objects.create(hostname="here", pid=1, lease_expires_at=soon, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": None, "functions": [], "tool_choice": "none", "parallel_tool_calls": True, "audio": None},
        {"service_tier": "auto", "modalities": ["text"], "reasoning_effort": None, "verbosity": "medium"},
        {"temperature": None, "top_p": 0, "n": None, "stop": None, "seed": -1, "stream": False, "store": None},
        {"max_tokens": 5, "user": "u", "metadata": {"k": "v"}, "logit_bias": {"7": -100}, "response_format": SCHEMA},
        {"logprobs": True, "top_logprobs": 20, "response_format": {"type": "json_object"}},
        says("developer", [{"type": "text", "text": "Be brief"}, {"type": "text", "text": "and kind"}]),
        says("assistant", "Hi", refusal=None, annotations=[], tool_calls=None, function_call=None, audio=None),
        says("user", "Hi", name=None),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_special_is_taken(
    fields: dict[str, Any], alices: Client, model: ServedModel
) -> None:
    """Clients send their defaults along, and answers back as they came."""
    answer = post(alices, "chat/completions", CHAT | fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")


def test_without_a_worker_nobody_waits(alices: Client, model: ServedModel) -> None:
    worker(state="stopping")
    answer = post(alices, "chat/completions", CHAT)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert int(answer.headers["Retry-After"]) > 0
    assert not Completion.objects.exists()


def test_a_full_queue_is_said_at_once_and_nothing_is_kept(
    alices: Client, model: ServedModel, settings: Any
) -> None:
    worker()
    settings.INFERENCE_MAX_QUEUED = 3
    answer = post(alices, "chat/completions", CHAT | {"n": 4})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) > 0
    assert not Completion.objects.exists()
    assert not Generation.objects.exists()


def test_an_id_of_an_event_that_is_none_is_refused(alices: Client, model: ServedModel) -> None:
    worker()
    for wrong in ("x", "1-2", "1.x", "9" * 20):
        answer = alices.post(
            "/v1/chat/completions",
            CHAT | {"stream": True},
            content_type="application/json",
            headers={"Last-Event-ID": wrong},
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


# --- what is stored ----------------------------------------------------------------------------------------------


def completion(
    workspace: Workspace, model: ServedModel, *, store: bool = True, minutes: float = 0, **fields: Any
) -> Completion:
    """One that was answered so long ago."""
    ended = timezone.now() - timezone.timedelta(minutes=minutes)
    owner = User.objects.get(email="alice@example.org")
    made = Completion.objects.create(
        workspace=workspace, user=owner, kind="chat.completion", model_name="demo", store=store, **fields
    )
    Completion.objects.filter(pk=made.pk).update(created_at=ended)
    Generation.objects.create(
        workspace=workspace, model=model, user=owner, purpose="api", call_id=made.pk, seed=1, state="complete",
        text="An answer.", finish_reason="stop", prompt_tokens=3, completion_tokens=2, deadline=ended, sent_at=ended,
        finished_at=ended, messages=[{"role": "user", "content": "A question?"}],
    )  # fmt: skip
    return made


def test_stored_ones_are_their_persons_alone(
    alices: Client, bobs: Client, charlies: Client, workspace: Workspace, model: ServedModel
) -> None:
    path = f"/v1/chat/completions/chatcmpl-{completion(workspace, model).pk.hex}"
    assert alices.get(path).json()["choices"][0]["message"]["content"] == "An answer."
    [message] = alices.get(f"{path}/messages").json()["data"]
    assert (message["role"], message["content"]) == ("user", "A question?")
    for client in (bobs, charlies):
        for answer in (
            client.get(path),
            client.get(f"{path}/messages"),
            client.delete(path),
            client.post(path, {"metadata": {}}, content_type="application/json"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert client.get("/v1/chat/completions").json()["data"] == []


def test_what_was_not_to_be_stored_is_not_found(
    alices: Client, workspace: Workspace, model: ServedModel
) -> None:
    made = completion(workspace, model, store=False)
    assert alices.get(f"/v1/chat/completions/chatcmpl-{made.pk.hex}").status_code == 404
    for wrong in ("chatcmpl-x", f"cmpl-{made.pk.hex}", "chatcmpl-" + "z" * 32, made.pk.hex):
        assert alices.get(f"/v1/chat/completions/{wrong}").status_code == 404


def test_stored_ones_are_listed_in_pages_and_found_by_their_metadata(
    alices: Client, workspace: Workspace, model: ServedModel
) -> None:
    ids = [
        f"chatcmpl-{completion(workspace, model, minutes=9 - n, metadata={'n': str(n)}).pk.hex}"
        for n in range(3)
    ]
    first = alices.get("/v1/chat/completions?limit=2").json()
    assert ([found["id"] for found in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = alices.get(f"/v1/chat/completions?limit=2&after={first['last_id']}").json()
    assert ([found["id"] for found in rest["data"]], rest["has_more"]) == (ids[2:], False)
    newest = alices.get("/v1/chat/completions?order=desc&limit=1").json()
    assert [found["id"] for found in newest["data"]] == ids[2:]
    [one] = alices.get("/v1/chat/completions", {"metadata[n]": "1"}).json()["data"]
    assert one["id"] == ids[1]
    # A key is a name, never a way to ask the database something else.
    assert alices.get("/v1/chat/completions", {"metadata[n__gt]": "0"}).json()["data"] == []
    assert alices.get("/v1/chat/completions?model=other").json()["data"] == []


# Digits are no place in a list, and quotes end no path.
KEYS = ["123", "0", "-1", 'a"b', "a\\b", "a\\", "a.b", "$", "ключ", "\n", "]", "%s", "k" * 64]


@pytest.mark.parametrize("key", KEYS)
def test_what_was_stored_with_metadata_is_found_by_it_whatever_its_key_is_called(
    alices: Client, workspace: Workspace, model: ServedModel, key: str
) -> None:
    made = completion(workspace, model, metadata={key: "x"})
    completion(workspace, model, metadata={f"{key[:60]}{key[:3]}": "x", "other": "x"})
    completion(workspace, model, metadata={key: "y"})
    found = alices.get("/v1/chat/completions", {f"metadata[{key}]": "x"}).json()["data"]
    assert [one["id"] for one in found] == [f"chatcmpl-{made.pk.hex}"]


def test_stored_ones_are_listed_by_no_metadata_that_is_none_and_from_no_place_that_is_none(
    alices: Client, workspace: Workspace, model: ServedModel
) -> None:
    made, lists = f"chatcmpl-{completion(workspace, model).pk.hex}", "/v1/chat/completions"
    assert [one["id"] for one in alices.get(f"{lists}?metadata=null").json()["data"]] == [made]
    for query, param in (
        ("metadata=x", "metadata"),
        ("metadata[]=x", "metadata"),
        ("metadata[a=x", "metadata"),
        (f"after={made[:-1]}g", "after"),
        (f"after=chatcmpl-{uuid4().hex}", "after"),
        ("after=", "after"),
    ):
        refused = alices.get(f"{lists}?{query}")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_value", param), query
    error = alices.get(f"{lists}/{made}/messages?after=nonsense").json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "after")
    assert "nonsense" in error["message"]


def test_metadata_is_replaced_and_a_deleted_one_is_gone_with_what_it_said(
    alices: Client, workspace: Workspace, model: ServedModel
) -> None:
    path = f"/v1/chat/completions/chatcmpl-{completion(workspace, model).pk.hex}"
    changed = alices.post(path, {"metadata": {"topic": "ships"}}, content_type="application/json")
    assert changed.json()["metadata"] == alices.get(path).json()["metadata"] == {"topic": "ships"}
    assert alices.delete(path).json()["deleted"] is True
    assert alices.get(path).status_code == 404
    assert not Generation.objects.exists()


def test_what_was_not_to_be_stored_is_forgotten_a_quarter_of_an_hour_after_its_end_as_its_log_is(
    workspace: Workspace, model: ServedModel, settings: Any
) -> None:
    from webapp.api.tasks import forget

    stored = completion(workspace, model, minutes=100)
    fresh = completion(workspace, model, store=False, minutes=10)
    completion(workspace, model, store=False, minutes=20)
    slow = completion(workspace, model, store=False, minutes=20)
    Generation.objects.filter(call_id=slow.pk).update(state="running", finished_at=None)
    forget()
    left = {stored.pk, fresh.pk, slow.pk}
    assert set(Completion.objects.values_list("pk", flat=True)) == left
    assert set(Generation.objects.values_list("call_id", flat=True)) == left
    settings.INFERENCE_LOG_TTL_SECONDS = 540
    forget()
    assert set(Completion.objects.values_list("pk", flat=True)) == {stored.pk, slow.pk}


def test_with_a_person_goes_all_that_their_programs_asked(
    workspace: Workspace, model: ServedModel, alice: User, bob: User
) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    completion(workspace, model)
    completion(workspace, model, store=False)
    lines = {line.what: line.count for line in erase_user(user=alice)}
    assert lines["Answers to your programs"] == 2
    assert not Completion.objects.exists()
    assert not Generation.objects.exists()
