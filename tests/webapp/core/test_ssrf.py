"""Addresses that people typed lead out, and not into the site's own network, by whatever road."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.webapp.receiver import Receiver, certificate_for, receiving
from webapp.core import ssrf
from webapp.core.errors import UserError
from webapp.core.public_addresses import Allowed, is_public
from webapp.core.ssrf import OutboundError, check_url, send
from webapp.env import SettingsError

Names = dict[str, list[list[str]]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def allow(settings: Any) -> Callable[..., None]:
    def allow(*entries: str) -> None:
        settings.OUTBOUND_ALLOW = Allowed.parse(entries, variable="OUTBOUND_ALLOW")

    return allow


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Hosts and what the resolver says of each: the first time, the second; the last for ever. Addresses are
    themselves, and no other name exists."""
    names: Names = {}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = names.get(host)
        addresses = [host] if found is None else found.pop(0) if len(found) > 1 else found[0]
        try:
            families = [ipaddress.ip_address(address).version for address in addresses]
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, "no such name") from None
        family = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (family[version], socket.SOCK_STREAM, 6, "", (address, port))
            for version, address in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def refused(url: str, method: str = "POST", **options: Any) -> str:
    """The code of the refusal."""
    with pytest.raises(OutboundError) as error:
        send(method, url, **options)
    return error.value.code


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.5.4", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "203.0.113.9"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001:0:4136:e378::1", "100::1", "3fff::1"),
    ],
)  # fmt: skip
def test_no_address_inside_is_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00::1", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "bad_url"),
        ("ftp://example.org/", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("example.org/hook", "bad_url"),
        ("http://", "bad_url"),
        ("https://exa mple.org/", "bad_url"),
        ("https://example.org/\r\nHost: x", "bad_url"),
        (" https://example.org/", "bad_url"),
        ("https://example.org:99999/", "bad_port"),
        (f"https://example.org/{'a' * 3000}", "bad_url"),
        ("https://user:secret@example.org/", "credentials_in_url"),
        ("https://example.org:22/", "bad_port"),
        ("https://example.org:0/", "bad_port"),
        ("http://127.0.0.1/", "address_refused"),
        ("http://[::1]/", "address_refused"),
        ("http://[::ffff:10.0.0.1]/", "address_refused"),
        ("http://localhost:8000/", "address_refused"),
        ("http://redis:6379/", "address_refused"),
        ("http://2130706433/", "address_refused"),
        ("http://0x7f000001/", "address_refused"),
    ],
)
def test_what_is_wrong_can_be_said_before_anything_is_looked_up(url: str, code: str, names: Names) -> None:
    with pytest.raises(UserError) as error:
        check_url(url)
    assert (error.value.code, error.value.param) == (code, "url")
    assert refused(url) == code


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://example.org:8080/", "https://bücher.example/"]
)
def test_ordinary_addresses_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "127.0.0.1.", "sub.localhost"])
def test_other_spellings_of_this_machine_are_refused(host: str, receiver: Receiver) -> None:
    assert refused(receiver.url(host=host)) in ("address_refused", "name_unknown")
    assert receiver.received == []


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_inside_is_refused(inside: str, names: Names, receiver: Receiver) -> None:
    names["hooks.example"] = [[inside]]
    assert refused(receiver.url(host="hooks.example")) == "address_refused"
    assert receiver.received == []


def test_a_name_with_one_address_inside_is_refused_whole(names: Names, receiver: Receiver) -> None:
    names["hooks.example"] = [["93.184.216.34", "127.0.0.1"]]
    assert refused(receiver.url(host="hooks.example")) == "address_refused"


def test_an_allowed_host_is_reached_and_is_sent_what_was_to_be_sent(
    allow: Any, names: Names, receiver: Receiver
) -> None:
    allow("hooks.example")
    names["hooks.example"] = [["127.0.0.1"]]
    answer = send("POST", receiver.url("/in?a=1", host="hooks.example"), headers={"X-A": "b"}, content=b"{}")
    assert (answer.status, answer.body) == (200, b"ok")
    [received] = receiver.received
    assert (received.method, received.path, received.body) == ("POST", "/in?a=1", b"{}")
    assert received.headers["host"] == f"hooks.example:{receiver.port}"
    assert received.headers["x-a"] == "b"


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8"])
def test_an_allowed_network_is_reached_by_address_and_by_name_and_no_other_is(
    entry: str, allow: Any, names: Names, receiver: Receiver
) -> None:
    allow(entry)
    names["hooks.example"] = [["127.0.0.1"]]
    names["other.example"] = [["10.0.0.1"]]
    assert send("GET", receiver.url()).status == 200
    assert send("GET", receiver.url(host="hooks.example")).status == 200
    assert refused(receiver.url(host="other.example")) == "address_refused"


def test_between_the_check_and_the_connection_a_name_cannot_change(
    allow: Any, names: Names, receiver: Receiver
) -> None:
    allow("127.0.0.1")
    # A second look would lead to where nothing is allowed, and nothing listens.
    names["hooks.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    assert send("GET", receiver.url(host="hooks.example")).status == 200
    assert names["hooks.example"] == [["127.0.0.2"]]


def test_of_several_addresses_one_that_answers_is_enough(
    allow: Any, names: Names, receiver: Receiver
) -> None:
    allow("127.0.0.0/8")
    names["hooks.example"] = [["127.0.0.9", "127.0.0.1"]]
    assert send("GET", receiver.url(host="hooks.example")).status == 200


def test_a_redirect_is_followed_with_what_was_sent_and_each_step_is_vetted(
    allow: Any, names: Names, receiver: Receiver
) -> None:
    allow("hooks.example", "next.example")
    names |= {
        "hooks.example": [["127.0.0.1"]],
        "next.example": [["127.0.0.1"]],
        "evil.example": [["127.0.0.1"]],
    }
    receiver.answers["/a"] = (307, {"Location": "/b", "Set-Cookie": "a=1"}, b"")
    receiver.answers["/b"] = (308, {"Location": receiver.url("/c", host="next.example")}, b"")
    answer = send("POST", receiver.url("/a", host="hooks.example"), content=b"x")
    assert (answer.status, answer.url) == (200, receiver.url("/c", host="next.example"))
    assert [(r.method, r.path, r.body) for r in receiver.received] == [("POST", f"/{n}", b"x") for n in "abc"]
    assert not any("cookie" in r.headers for r in receiver.received)

    receiver.received.clear()
    for inside in (
        receiver.url("/c", host="evil.example"),
        receiver.url("/c"),
        "http://169.254.169.254/latest",
    ):
        receiver.answers["/b"] = (307, {"Location": inside}, b"")
        assert refused(receiver.url("/b", host="hooks.example")) == "address_refused"
    assert {r.path for r in receiver.received} == {"/b"}


def test_a_redirect_that_would_make_a_get_of_a_post_is_an_answer(allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    receiver.answer = (302, {"Location": "/elsewhere"}, b"")
    assert send("POST", receiver.url(), content=b"x").status == 302
    assert len(receiver.received) == 1


def test_redirects_end(allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    receiver.answer = (307, {"Location": "/again"}, b"")
    assert refused(receiver.url()) == "too_many_redirects"
    assert len(receiver.received) == 1 + ssrf.MAX_REDIRECTS


@pytest.mark.parametrize("target", ["ftp://example.org/", "http://[", "javascript:alert(1)"])
def test_a_redirect_to_what_is_no_address_is_refused(target: str, allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    receiver.answer = (307, {"Location": target}, b"")
    assert refused(receiver.url()) == "bad_url"


def test_an_encrypted_connection_is_to_the_name_and_not_to_the_address(
    allow: Any, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow("hooks.example", "other.example")
    names |= {"hooks.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
    pem = certificate_for("hooks.example", tmp_path)
    with receiving(certificate=pem) as receiver:
        url = receiver.url(host="hooks.example", scheme="https")
        ssrf._tls_context.cache_clear()
        try:
            assert refused(url) == "bad_certificate"
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            ssrf._tls_context.cache_clear()
            assert send("POST", url, content=b"x").status == 200
            assert refused(receiver.url(host="other.example", scheme="https")) == "bad_certificate"
            receiver.answer = (307, {"Location": "http://hooks.example/"}, b"")
            assert refused(url) == "unsafe_redirect"
        finally:
            ssrf._tls_context.cache_clear()


def test_the_proxies_of_the_environment_are_not_asked(
    allow: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow("127.0.0.1")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send("GET", receiver.url()).status == 200


def test_of_an_endless_answer_only_the_beginning_is_read(allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    receiver.answer = (200, {"Content-Length": str(10**12)}, b"a" * 500_000)
    assert send("GET", receiver.url(), max_bytes=1000).body == b"a" * 1000
    assert send("GET", receiver.url(), max_bytes=0).body == b""


def test_a_compressed_answer_is_not_unpacked(allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    receiver.answer = (200, {"Content-Encoding": "gzip"}, b"no gzip at all")
    assert send("GET", receiver.url()).body == b"no gzip at all"


def test_who_answers_a_byte_at_a_time_is_not_waited_for(allow: Any, receiver: Receiver) -> None:
    allow("127.0.0.1")
    gone: list[bool] = []

    def drip(handler: Any) -> None:
        try:
            while True:
                handler.wfile.write(b"H")
                time.sleep(0.05)
        except OSError:
            gone.append(True)

    receiver.before_answer = drip
    began = time.monotonic()
    assert refused(receiver.url(), seconds=0.4) == "timeout"
    assert time.monotonic() - began < 2


def test_a_resolver_that_hangs_is_not_waited_for(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [time.sleep(1)][1:])
    began = time.monotonic()
    assert refused("https://hooks.example/", seconds=0.2) == "timeout"
    assert time.monotonic() - began < 2


def test_what_went_wrong_has_a_sentence(allow: Any, names: Names, receiver: Receiver) -> None:
    allow("127.0.0.0/8")
    assert refused("https://nowhere.example/") == "name_unknown"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert refused(f"http://127.0.0.1:{unused.getsockname()[1]}/") == "no_connection"
    receiver.before_answer = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    assert refused(receiver.url()) == "broken"


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "300.1.1.1", "http://hooks.internal", "a b", "-x"])
def test_a_list_of_allowed_hosts_with_a_mistake_stops_the_start(entry: str) -> None:
    with pytest.raises(SettingsError, match="OUTBOUND_ALLOW"):
        Allowed.parse([entry], variable="OUTBOUND_ALLOW")
