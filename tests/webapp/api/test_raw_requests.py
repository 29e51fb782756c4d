"""What comes over the wire that no client library would send: to a live site, byte by byte."""

from __future__ import annotations

import json
import socket
from typing import NamedTuple

from tests.services import Site

POST = b"POST /v1/api_keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
MIB = 2**20


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return f"{self.status} {error['code']}"


def ask(site: Site, *parts: bytes) -> Answer:
    """Sends all parts, then reads one answer."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        reader = connection.makefile("rb")
        status = int(reader.readline().split()[1])
        headers = {}
        while line := reader.readline().strip():
            name, _colon, value = line.decode().partition(": ")
            headers[name.lower()] = value
        if headers.get("transfer-encoding") != "chunked":
            length = headers.get("content-length")
            return Answer(status, headers, reader.read(int(length)) if length else reader.read())
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        return Answer(status, headers, body)


def test_every_request_that_is_none_gets_an_error_object_and_the_site_goes_on(live_site: Site) -> None:
    asked: dict[str, tuple[bytes, ...]] = {
        "a body in chunks": (POST, CHUNKED, b"\r\n", b"2\r\n{}\r\n", b"0\r\n\r\n"),
        "a length and chunks": (POST, CHUNKED, b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        "two lengths": (POST, b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        "a negative length": (POST, b"Content-Length: -2\r\n\r\n{}"),
        "an absurd length": (POST, b"Content-Length: 99999999999999999999999\r\n\r\n{}"),
        "chunks that are none": (POST, CHUNKED, b"\r\nZZ\r\n{}\r\n"),
        "a query of 100 kB": (b"GET /v1/models?a=", b"x" * 100_000, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "a query of 50 kB": (b"GET /v1/models?a=", b"x" * 50_000, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "a header of 200 kB": (GET, b"X: ", b"x" * 200_000, b"\r\n\r\n"),
        "two keys": (GET, b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"),
        "a key that is no text": (GET, b"Authorization: Bearer \xff\xfe\r\n\r\n"),
        "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n",),
        "a path that is no text": (b"GET /v1/models/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        "a method that is none": (b"FOO /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        "not encrypted as hoped": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),
    }
    answers = {what: str(ask(live_site, *parts)) for what, parts in asked.items()}
    no_request, let_nobody_in = "400 bad_request", "401 missing_api_key"
    assert answers == {
        "a body in chunks": let_nobody_in,
        "a length and chunks": no_request,
        "two lengths": no_request,
        "a negative length": no_request,
        "an absurd length": no_request,
        "chunks that are none": no_request,
        "a query of 100 kB": no_request,
        "a query of 50 kB": "414 address_too_long",
        "a header of 200 kB": let_nobody_in,
        "two keys": "401 invalid_api_key",
        "a key that is no text": "401 invalid_api_key",
        "no host": let_nobody_in,
        "a path that is no text": no_request,
        "a method that is none": no_request,
        "another protocol": no_request,
        "not encrypted as hoped": no_request,
    }
    assert str(ask(live_site, GET, b"\r\n")) == let_nobody_in


def test_a_body_that_is_too_large_is_answered_although_its_sender_does_not_stop(live_site: Site) -> None:
    for length, parts in (
        (b"Content-Length: %d\r\n\r\n" % (8 * MIB), [b"x" * MIB] * 8),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"100000\r\n" + b"x" * MIB + b"\r\n"] * 8),
    ):
        answer = ask(live_site, POST, length, *parts)
        assert str(answer) == "413 request_too_large"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_body_is_not_asked_for_that_would_be_refused(live_site: Site) -> None:
    """Whoever announces one, and waits to be told to go on, is answered at once."""
    head = b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (8 * MIB)
    assert str(ask(live_site, POST, head)) == "413 request_too_large"
