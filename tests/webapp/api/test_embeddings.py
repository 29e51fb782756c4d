"""/v1/embeddings, as OpenAI's client asks for them."""

from __future__ import annotations

import math
import struct
import uuid
from base64 import b64decode

import openai
import pytest
from django.utils import timezone

from inference.models import Generation, UsageDay
from tests.scripted_engine import CONTEXT_LENGTH
from tests.services import Site, wait_until
from tests.webapp.api.live_clients import async_openai_client, http_client, key_of, openai_client
from webapp.accounts.models import LimitRule, Membership, Role, User, Workspace
from webapp.api.models import Completion


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


@pytest.fixture
def client(live_site: Site, key: str) -> openai.OpenAI:
    return openai_client(live_site, key)


def cosine(first: list[float], second: list[float]) -> float:
    return sum(map(float.__mul__, first, second))


def test_each_input_gets_its_vector_in_order(client: openai.OpenAI) -> None:
    texts = ["a red fox runs", "a red fox sleeps", "nine percent"]
    answer = client.embeddings.create(model="scripted", input=texts)
    assert (answer.object, answer.model) == ("list", "scripted")
    assert [found.index for found in answer.data] == [0, 1, 2]
    first, close, other = (found.embedding for found in answer.data)
    assert math.isclose(cosine(first, first), 1, rel_tol=1e-5)
    assert cosine(first, close) > cosine(first, other)
    [alone] = client.embeddings.create(model="scripted", input=texts[1]).data
    assert alone.embedding == close
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 10


def test_vectors_come_as_numbers_or_as_base64_of_the_same(live_site: Site, key: str) -> None:
    http = http_client(live_site, key)
    body = {"model": "scripted", "input": ["a fox"]}
    numbers = http.post("/embeddings", json=body).json()["data"][0]["embedding"]
    packed = http.post("/embeddings", json={**body, "encoding_format": "base64"}).json()["data"][0][
        "embedding"
    ]
    assert struct.unpack(f"<{len(numbers)}f", b64decode(packed)) == tuple(numbers)


def test_token_ids_are_read_as_they_are(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="scripted", input=[3, 4, 5])
    several = client.embeddings.create(model="scripted", input=[[3, 4, 5], [6]])
    assert len(one.data) == 1
    assert several.data[0].embedding == one.data[0].embedding
    assert several.usage.prompt_tokens == 4


def test_many_inputs_come_back_in_order_and_nothing_of_them_stays(
    live_site: Site, client: openai.OpenAI
) -> None:
    begun, texts = timezone.now(), [f"text {n}" for n in range(200)]
    answer = client.embeddings.create(model="scripted", input=texts)
    assert [found.index for found in answer.data] == list(range(200))
    some = client.embeddings.create(model="scripted", input=[texts[1], texts[70], texts[199]])
    assert [found.embedding for found in some.data] == [answer.data[n].embedding for n in (1, 70, 199)]
    with live_site.rows():
        left = Completion.objects.filter(kind=Completion.Kind.EMBEDDING, created_at__gte=begun)
        assert not left.exists()
        assert not Generation.objects.filter(purpose="embedding", created_at__gte=begun).exists()


def test_as_many_inputs_as_openai_takes_are_taken_and_no_more(client: openai.OpenAI) -> None:
    for count, code, param in ((2048, "invalid_value", "input.2047"), (2049, "too_many_inputs", "input")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="scripted", input=[*["x"] * (count - 1), ""])
        assert (refused.value.code, refused.value.param) == (code, param)


def test_however_many_inputs_are_one_request_of_limits_and_of_usage(live_site: Site) -> None:
    email = f"{uuid.uuid4()}@example.org"
    with live_site.rows():
        person = User.objects.create_user(email, None)
        workspace = Workspace.objects.create(name="Limited")
        Membership.objects.create(workspace=workspace, user=person, role=Role.OWNER)
        LimitRule.objects.create(
            workspace=workspace, concurrent_streams=1, requests_per_minute=10, tokens_per_minute=10_000
        )
    client = openai_client(live_site, key_of(live_site, email))
    for remaining in (9, 8, 7):
        # More than one wave; the one after it finds the only stream free, and no token charged twice.
        answer = client.embeddings.with_raw_response.create(model="scripted", input=["two words"] * 100)
        assert answer.headers["x-ratelimit-remaining-requests"] == str(remaining)
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        assert 10_000 - left <= 200 * (9 - remaining) + 400
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="scripted", input="word " * 60_000)
    with live_site.rows():
        [day] = UsageDay.objects.filter(workspace=workspace)
    assert (day.requests, day.prompt_tokens, day.completion_tokens, day.source) == (3, 600, 0, "api")


def test_who_hangs_up_ends_what_waits(live_site: Site, key: str) -> None:
    begun = timezone.now()
    texts = [f"text {n}" for n in range(2048)]
    with pytest.raises(openai.APITimeoutError):
        openai_client(live_site, key).with_options(timeout=1.0).embeddings.create(
            model="scripted", input=texts
        )
    with live_site.rows():
        mine = Generation.objects.filter(purpose="embedding", created_at__gte=begun)
        wait_until(lambda: not mine.filter(state__in=("queued", "running")).exists(), "all of it to end")
        assert mine.count() < 2048


def test_an_input_that_is_too_long_is_named_with_both_figures(client: openai.OpenAI) -> None:
    long = "word " * (CONTEXT_LENGTH + 5)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="scripted", input=["short", long])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input.1")
    assert str(CONTEXT_LENGTH) in str(refused.value)
    assert str(CONTEXT_LENGTH + 5) in str(refused.value)


def test_only_the_models_own_number_of_dimensions_may_be_asked_for(client: openai.OpenAI) -> None:
    size = len(client.embeddings.create(model="scripted", input="a").data[0].embedding)
    assert client.embeddings.create(model="scripted", input="a", dimensions=size).data
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="scripted", input="a", dimensions=size - 1)
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "dimensions")


WRONG: dict[str, tuple[object, str, str]] = {
    "a number": (5, "invalid_type", "input"),
    "nothing": ([], "invalid_value", "input"),
    "an empty text": (["a", ""], "invalid_value", "input.1"),
    "a mixture": (["a", 5], "invalid_type", "input.1"),
    "no ids": ([[]], "invalid_type", "input.0"),
    "a negative id": ([[1, -1]], "invalid_type", "input.0"),
    "null": (None, "invalid_type", "input"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_input_is_refused_by_name(what: str, live_site: Site, key: str) -> None:
    value, code, param = WRONG[what]
    answer = http_client(live_site, key).post("/embeddings", json={"model": "scripted", "input": value})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def test_another_parameter_or_model_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="scripted", input="a", extra_body={"truncate": "left"})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "truncate")
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert missing.value.code == "model_not_found"


async def test_the_asynchronous_client_embeds_too(live_site: Site, key: str) -> None:
    async with async_openai_client(live_site, key) as client:
        answer = await client.embeddings.create(model="scripted", input=["a", "b"], user="somebody")
    assert len(answer.data) == 2


def test_a_real_models_vectors_tell_paraphrases_from_other_things(model_site: Site) -> None:
    client, model = openai_client(model_site, key_of(model_site)), "smollm2-135m-instruct"
    answer = client.embeddings.create(
        model=model,
        input=[
            "The cat slept on the warm windowsill all afternoon.",
            "All afternoon the cat was sleeping on the warm window ledge.",
            "Quarterly revenue grew by nine percent after the merger.",
        ],
    )
    first, paraphrase, other = (found.embedding for found in answer.data)
    assert cosine(first, paraphrase) > cosine(first, other)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=model, input=[[1, 2], [10**9]])
    assert (refused.value.code, refused.value.param) == ("invalid_request", "input.1")
