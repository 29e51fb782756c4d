"""Personal data is found by its own rules, and what is redacted is not found again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.datasets.personal import KINDS, find_personal, is_card, is_iban, redact

FOUND = [
    ("email", "a.b+c@ex-ample.co.uk"),
    ("email", "grüße@bücher.de"),
    ("phone", "+49 30 1234567"),
    ("phone", "0049 30 1234567"),
    ("phone", "(030) 123 4567"),
    ("phone", "030/1234567"),
    ("phone", "212-555-0187"),
    ("phone", "(212) 555-0187"),
    ("phone", "13812345678"),
    ("phone", "138 1234 5678"),
    ("card", "4111 1111 1111 1111"),
    ("card", "378282246310005"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("ssn", "078-05-1120"),
    ("ssn", "123-45-6789"),
    ("ip", "192.168.1.10"),
    ("ip", "2001:db8::1"),
    ("ip", "fe80::1ff:fe23:4567:890a"),
    ("key", "sk-abcdefghijklmnopqrstuvwx"),
    ("key", "AKIAABCDEFGHIJKLMNOP"),
    ("key", "ghp_" + "a1" * 18),
    ("key", "github_pat_11ABCDEFG0" + "a1_B" * 18),
    ("key", "glpat-" + "a1-B_" * 4),
    ("key", "sk_live_" + "a1B2" * 6),
    ("key", "rk_test_" + "a1B2" * 6),
    ("key", "AIza" + "a1-B_" * 7),
    ("key", "xoxb-123456789012-123456789012-" + "a1B2" * 6),
    ("key", "hf_" + "aB" * 17),
    ("key", "npm_" + "a1B2" * 9),
    ("key", "pypi-AgEIcHlwaS5vcmc" + "a1-B_" * 12),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.a1-B_a1-B_a1-B_"),
    ("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----"),
]
NOT_PERSONAL = [
    "4111 1111 1111 1112",  # Luhn's check fails
    "DE88 3704 0044 0532 0130 00",  # modulo 97 fails
    "DE89 3704 0044 0532 0130",  # too short for Germany
    "on 2024-01-02 at 10:30, or on 01.02.2024",
    "1234567.89 EUR and 1,234,567,890",
    "version 1.2.3, and 1.2.3.4.5",
    "version 1.2.3.4, Ver. 10.2.0.1, build: 1.0.22.7 or v 1.2.3.4",
    "part 900-45-6789, 666-45-6789 or 123-00-6789",
    "127.0.0.1, ::1, 999.1.1.1",
    "std::vector and a::b",
    "3.14159265358979",
    "order 1234567890",
    "order 12012345678",
    "x13812345678",
    "someone@localhost or @name",
    "the task-force of the risk-averse",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_each_kind_is_found_within_a_sentence_and_nothing_around_it(kind: str, text: str) -> None:
    sentence = f"It is {text}, she said."
    assert [(f.kind, sentence[f.start : f.end]) for f in find_personal(sentence)] == [(kind, text)]
    assert redact(sentence, [kind]) == f"It is [{kind.upper()}], she said."
    assert redact(sentence, set(KINDS) - {kind}) == sentence


def test_a_key_whose_end_was_lost_ends_where_the_next_begins() -> None:
    (_, key), lost = FOUND[-1], "-----BEGIN PRIVATE KEY-----\nMIIxyz\n"
    assert redact(f"{lost}{key} and more", ["key"]) == "[KEY][KEY] and more"


@pytest.mark.parametrize(("kind", "text"), [found for found in FOUND if found[1].isascii()])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("请记下", "谢谢您的帮助" * 10),
        ("番号は", "です"),
        ("ที่", "ครับ"),
        ("번호는", "입니다"),
        ("我" * 70, ""),
    ],
)
def test_each_kind_is_found_right_beside_letters_of_scripts_without_spaces(
    kind: str, text: str, before: str, after: str
) -> None:
    found = [(f.kind, (before + text + after)[f.start : f.end]) for f in find_personal(before + text + after)]
    assert found == [(kind, text)]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert find_personal(text) == []


def test_the_checks_of_cards_and_ibans_fail_for_every_other_last_digit() -> None:
    assert [is_card(f"411111111111111{last}") for last in range(10)] == [last == 1 for last in range(10)]
    assert [is_iban(f"DE8937040044053201300{last}") for last in range(10)] == [
        last == 0 for last in range(10)
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([text for _, text in FOUND]),
            st.text(max_size=12),
            st.text("0189 +-.:@a(", max_size=25),
        )
    ).map(" ".join)
)
def test_what_is_redacted_is_not_found_again(text: str) -> None:
    assert find_personal(redact(text, KINDS)) == []


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000,
        "1 " * 50_000,
        "a@" * 50_000,
        "a.b@" * 25_000,
        "x@" + "a-" * 50_000,
        "1:" * 50_000,
        "DE89" * 25_000,
        "eyJ" * 30_000,
        "-----BEGIN PRIVATE KEY-----" * 4_000,
        "-----BEGIN PRIVATE KEY-----" * 12_000 + "!",
        "a@b.co " * 15_000,
        "1.2.3.4 " * 12_000,
    ],
    ids=lambda text: text[:8] + text[-1],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    find_personal(text)
    assert time.process_time() - started < 3
