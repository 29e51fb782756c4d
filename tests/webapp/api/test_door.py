"""What no address under /v1 takes: bodies that are no JSON, or no honest JSON, and addresses that are none."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from webapp.accounts.models import ApiKey

KEYS = "/v1/api_keys"


def refused(client: Client, raw: bytes | str, content_type: str = "application/json", **headers: str) -> str:
    """The error's code, of a POST that makes nothing."""
    before = ApiKey.objects.count()
    answer = client.post(KEYS, raw, content_type=content_type, headers=headers)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert ApiKey.objects.count() == before
    return f"{answer.status_code} {error['code']}"


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"nonsense",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": 1e999}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "\xff"}',
        b'{"name": "a\x00b"}',
        b'{"name": "a\\u0000b"}',
        b'{"name": "a\\\\\\u0000b"}',
        b'{"name": "x", "expires_at": 18446744073709551616}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": ' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"name": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b" ",
        b'{"name": "x"} {"name": "y"}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_a_body_that_is_no_honest_json_is_refused(alices: Client, raw: bytes) -> None:
    assert refused(alices, raw) == "400 invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"", b"{}"])
def test_json_that_is_no_object_of_the_route_is_refused(alices: Client, raw: bytes) -> None:
    assert refused(alices, raw).startswith("400 ")


def test_what_only_looks_like_the_forbidden_character_is_text(alices: Client) -> None:
    answer = alices.post(
        KEYS, b'{"name": "back\\\\u0000slash 12345678901234567890"}', content_type="application/json"
    )
    assert answer.json()["name"] == "back\\u0000slash 12345678901234567890"


def test_a_body_may_be_nested_a_hundred_levels_deep(alices: Client) -> None:
    deep = b'{"name": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert refused(alices, deep) == "400 invalid_type"


def test_a_field_that_does_not_exist_is_named_and_not_echoed_at_length(alices: Client) -> None:
    answer = alices.post(
        KEYS, json.dumps({"name": "x", "y" * 100_000: 1}).encode(), content_type="application/json"
    )
    assert answer.json()["error"]["code"] == "unsupported_parameter"
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x"],
)  # fmt: skip
def test_a_body_of_another_type_is_refused(alices: Client, content_type: str) -> None:
    assert refused(alices, b'{"name": "x"}', content_type) == "415 unsupported_media_type"


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_compressed_body_is_refused(alices: Client, encoding: str) -> None:
    compressed = refused(alices, b"\x1f\x8b", **{"Content-Encoding": encoding})
    assert compressed == "415 unsupported_content_encoding"


def test_a_page_that_sends_a_form_to_a_route_of_json_is_told_so(alice_on_a_page: Client) -> None:
    for content_type in (
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "text/plain",
    ):
        assert refused(alice_on_a_page, b"--x--\r\n", content_type) == "415 unsupported_media_type"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/v1/models?a=" + "x" * 9000, "414 address_too_long"),
        ("/v1/api_keys?" + "&".join(f"a{n}=1" for n in range(1100)), "400 bad_request"),
        ("/v1/models/" + "x" * 3000, "414 address_too_long"),
        ("/v1/models/a%00b", "400 invalid_address"),
        ("/v1/api_keys?after=%00", "400 invalid_address"),
        ("/v1/api_keys?after=nonsense", "400 invalid_value"),
        ("/v1/api_keys?limit=0", "400 invalid_value"),
        ("/v1/api_keys?limit=" + "9" * 5000, "400 invalid_value"),
        ("/v1/api_keys?limit=%F0%9F", "400 invalid_value"),
        ("/v1/models/%FF", "404 model_not_found"),
        ("/v1/api_keys/nonsense", "404 not_found"),
        ("/v1/api_keys/" + "0" * 32, "404 not_found"),
        ("/v1/", "404 unknown_url"),
        ("/v1//models", "404 unknown_url"),
    ],
    ids=lambda value: value[:40],
)
def test_addresses_that_are_none_are_refused_in_the_same_shape(
    alices: Client, address: str, expected: str
) -> None:
    answer = alices.get(address)
    found = str(answer.status_code)
    if answer.status_code != 200:
        found += " " + answer.json()["error"]["code"]
    assert found == expected


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE", "PATCH"])
def test_methods_an_address_does_not_take_are_refused_and_named(alices: Client, method: str) -> None:
    answer = alices.generic(method, "/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_pages_of_other_sites_are_not_let_in(alices: Client) -> None:
    """No CORS headers: a browser sends no key to here from a page of elsewhere, nor lets it read what came."""
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        alices.options(KEYS, headers=asked),
        alices.get("/v1/models", headers={"Origin": "https://elsewhere.example"}),
    ):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_who_is_not_let_in_is_told_how_in_the_header_too(client: Client, alices: Client) -> None:
    assert client.get("/v1/models").headers["WWW-Authenticate"] == "Bearer"
    assert "WWW-Authenticate" not in alices.get("/v1/models").headers
