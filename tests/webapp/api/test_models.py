"""/v1/models, and what every route has in common: who is let in, and the shape of errors."""

from __future__ import annotations

from django.test import Client

from inference.models import ServedModel
from webapp.accounts.models import ApiKey, User, Workspace


def own_model(workspace: Workspace, base: ServedModel, name: str = "ft:demo:acme:support:1") -> ServedModel:
    return ServedModel.objects.create(
        name=name, path="x", digest="1", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        workspace=workspace, base=base,
    )  # fmt: skip


def test_base_models_come_first_and_then_the_workspaces_own(
    alices: Client, charlies: Client, model: ServedModel, workspace: Workspace
) -> None:
    own_model(workspace, model)
    body = alices.get("/v1/models").json()
    assert [found["id"] for found in body["data"]] == ["demo", "ft:demo:acme:support:1"]
    assert body["object"] == "list"
    assert {found["object"] for found in body["data"]} == {"model"}
    assert [found["id"] for found in charlies.get("/v1/models").json()["data"]] == ["demo"]


def test_another_workspaces_model_does_not_exist(
    alices: Client, charlies: Client, model: ServedModel, workspace: Workspace
) -> None:
    own_model(workspace, model)
    assert alices.get("/v1/models/ft:demo:acme:support:1").json()["base"] == "demo"
    answer = charlies.get("/v1/models/ft:demo:acme:support:1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"


def test_without_a_key_nobody_is_let_in(client: Client, model: ServedModel, alice: User) -> None:
    answer = client.get("/v1/models")
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "missing_api_key"
    for headers in ({"x-api-key": "k"}, {"api-key": "k"}):
        assert "wrong place" in client.get("/v1/models", headers=headers).json()["error"]["message"]
    assert "wrong place" in client.get("/v1/models?api_key=k").json()["error"]["message"]


def test_a_key_that_is_wrong_revoked_or_whose_person_left_is_refused(
    alices: Client, client: Client, model: ServedModel, alice: User
) -> None:
    assert alices.get("/v1/models").status_code == 200
    wrong = client.get("/v1/models", headers={"Authorization": "Bearer fw-nonsense"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    alice.memberships.all().delete()
    assert alices.get("/v1/models").status_code == 401
    ApiKey.objects.all().delete()
    assert alices.get("/v1/models").status_code == 401


def test_an_address_or_method_that_is_none_answers_in_the_same_shape(
    alices: Client, model: ServedModel
) -> None:
    for answer, status, code in (
        (alices.get("/v1/nothing"), 404, "unknown_url"),
        (alices.delete("/v1/models"), 405, "method_not_allowed"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_request_id_comes_back(alices: Client, model: ServedModel) -> None:
    assert alices.get("/v1/models", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert (
        alices.get("/v1/models", headers={"X-Request-ID": "a\nforged"}).headers["x-request-id"] != "a\nforged"
    )


def test_a_page_calls_with_its_session(workspace: Workspace, alice: User, model: ServedModel) -> None:
    page = Client(enforce_csrf_checks=True)
    page.force_login(alice)
    assert page.get("/v1/models").status_code == 200
