"""/v1/moderations: a workspace's own classifiers, as OpenAI's client asks for moderation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import openai
import pytest
from django.test import Client
from django.utils import timezone
from safetensors.numpy import save_file

from inference.engine.head import read_head
from inference.formats.classifier_card import ADAPTERS_SCORE, CARD_FILE, Card, Kind
from inference.formats.digest import adapted_digest
from inference.models import Generation, ServedModel
from tests.scripted_engine import ScriptedEngine, vector_of
from tests.services import Site, wait_until
from tests.webapp.api.live_clients import (
    async_openai_client,
    http_client,
    key_of,
    openai_client,
    outsider,
    workspace_of,
)

# Each label, and the word that makes it likely.
LABELS = {"ok": "hello", "insult": "idiot", "threat": "beware"}


def save_scripted_classifier(folder: Path, kind: Kind, labels: dict[str, str]) -> str:
    """An adapter of the scripted engine's with a head that looks for words. Its digest."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"says": "", "labels": labels, "kind": kind}))
    # Of one word's vector 30 × its own direction is nearly sure, and 0 for all others.
    score = np.array(
        [[30 * value for value in vector_of(word)] for word in labels.values()], dtype=np.float32
    )
    save_file({ADAPTERS_SCORE: score}, folder / "adapter_model.safetensors")
    names = [] if kind == "regression" else list(labels)
    card = Card(
        task="regression" if kind == "regression" else "classification",
        kind=kind, labels=names, mean=20.0, std=7.5, max_length=100, base="",
    )  # fmt: skip
    (folder / CARD_FILE).write_bytes(msgspec.json.encode(card))
    return adapted_digest(ScriptedEngine().read_adapter(folder).digest, read_head(folder).digest)


def classifier(site: Site, name: str, kind: Kind = "multiclass", labels: dict[str, str] | None = None) -> str:
    """What a succeeded job of Alice's workspace would have left on a site; the model's name."""
    full = f"ft:scripted:acme:{name}:1"
    folder = site.home / "models-of-tests" / name
    with site.rows():
        if not folder.exists():
            digest = save_scripted_classifier(folder, kind, labels or LABELS)
            ServedModel.objects.create(
                name=full, path=str(folder.relative_to(site.home)), digest=digest, kind="classifier",
                base=ServedModel.objects.get(name="scripted"), workspace=workspace_of(site),
                architecture="scripted", context_length=100, parameters=1, size_bytes=1,
            )  # fmt: skip
        ServedModel.objects.filter(name=full).update(removed_at=None)
    return full


@pytest.fixture(scope="module", autouse=True)
def _no_other_test_sees_them(_session_site: Site) -> Iterator[None]:
    yield
    with _session_site.rows():
        ServedModel.objects.filter(kind="classifier").update(removed_at=timezone.now())


@pytest.fixture
def manners(live_site: Site) -> str:
    return classifier(live_site, "manners")


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


@pytest.fixture
def client(live_site: Site, key: str) -> openai.OpenAI:
    return openai_client(live_site, key)


def test_each_text_gets_the_classifiers_labels_as_categories(manners: str, client: openai.OpenAI) -> None:
    answer = client.moderations.create(model=manners, input=["hello", "idiot"])
    assert answer.id.startswith("modr-")
    assert answer.model == manners
    friendly, rude = (result.to_dict() for result in answer.results)
    assert friendly["flagged"] is False
    assert friendly["categories"] == {"ok": False, "insult": False, "threat": False}
    assert friendly["category_scores"]["ok"] > 0.9
    assert rude["flagged"] is True
    assert rude["categories"] == {"ok": False, "insult": True, "threat": False}
    assert sum(rude["category_scores"].values()) == pytest.approx(1)
    assert rude["category_applied_input_types"] == {label: ["text"] for label in LABELS}
    [alone] = client.moderations.create(model=manners, input="idiot").results
    assert alone.to_dict() == rude


def test_a_text_may_have_several_labels_where_the_classifier_says_so(
    live_site: Site, client: openai.OpenAI
) -> None:
    model = classifier(live_site, "several", "multilabel", {"insult": "idiot", "threat": "beware"})
    [both] = client.moderations.create(model=model, input="idiot beware").results
    assert both.to_dict()["categories"] == {"insult": True, "threat": True}


def test_openais_parts_of_one_text_are_one_text(manners: str, client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "idiot"}, {"type": "text", "text": "idiot"}]
    [result] = client.moderations.create(model=manners, input=parts).results
    assert result.flagged
    image: Any = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(model=manners, input=image)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input.0.type")


@pytest.mark.parametrize("name", [None, "omni-moderation-latest"])
def test_without_a_classifier_there_is_none(name: str | None, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.moderations.create(input="Hello", **({"model": name} if name else {}))  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert "released" in str(missing.value) or name


def test_what_judges_nothing_or_gives_numbers_is_refused(
    live_site: Site, manners: str, client: openai.OpenAI
) -> None:
    number = classifier(live_site, "number", "regression", {"value": "hello"})
    for model in ("scripted", number):
        with pytest.raises(openai.BadRequestError) as refused:
            client.moderations.create(model=model, input="Hello")
        assert (refused.value.code, refused.value.param) == ("wrong_kind_of_model", "model")
    # And the other way round: what judges writes nothing.
    asking: list[Callable[[], object]] = [
        lambda: client.chat.completions.create(model=manners, messages=[{"role": "user", "content": "Hi"}]),
        lambda: client.responses.create(model=manners, input="Hi"),
        lambda: client.embeddings.create(model=manners, input="Hi"),
    ]
    for ask in asking:
        with pytest.raises(openai.BadRequestError) as refused:
            ask()
        assert refused.value.code == "wrong_kind_of_model"


def test_a_classifier_is_listed_and_is_nobody_elses(
    live_site: Site, manners: str, client: openai.OpenAI
) -> None:
    listed = {found.id: found.to_dict() for found in client.models.list()}
    assert listed[manners]["kind"] == "classifier"
    assert client.models.retrieve(manners).id == manners
    stranger = openai_client(live_site, outsider(live_site))
    assert manners not in {found.id for found in stranger.models.list()}
    with pytest.raises(openai.NotFoundError):
        stranger.moderations.create(model=manners, input="Hello")


def test_nothing_of_a_text_is_kept(live_site: Site, manners: str, client: openai.OpenAI) -> None:
    client.moderations.create(model=manners, input="a very private matter")

    def kept() -> bool:
        return Generation.objects.filter(prompt="a very private matter").exists()

    with live_site.rows():
        wait_until(lambda: not kept(), "it to be forgotten")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [""]}, "invalid_value", "input.0"),
        ({"input": [{"type": "text", "text": 5}]}, "invalid_type", "input.0"),
        ({"input": [{"type": "text"}, "x"]}, "invalid_type", "input.0"),
        ({"input": "x", "threshold": 0.2}, "unsupported_parameter", "threshold"),
    ],
)
def test_what_is_wrong_is_named(body: Any, code: str, param: str, alices: Client) -> None:
    answer = alices.post("/v1/moderations", body, content_type="application/json")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


async def test_the_asynchronous_client_moderates_too(live_site: Site, manners: str, key: str) -> None:
    async with async_openai_client(live_site, key) as client:
        answer = await client.moderations.create(model=manners, input="beware")
    assert answer.results[0].flagged


@pytest.mark.parametrize(
    ("label", "harmless"),
    [
        ("Not toxic", True),
        ("non-spam", True),
        ("notable", False),
        ("OK", True),
        ("normality", False),
        ("正常", True),
    ],
)
def test_a_label_that_says_nothing_is_wrong_is_known_by_its_name(
    label: str, harmless: bool, live_site: Site
) -> None:
    name = f"names-{crc32(label.encode())}"
    model = classifier(live_site, name, "multiclass", {label: "hello", "other": "other"})
    answer = http_client(live_site, key_of(live_site)).post(
        "/moderations", json={"model": model, "input": "hello"}
    )
    assert answer.json()["results"][0]["flagged"] is not harmless
