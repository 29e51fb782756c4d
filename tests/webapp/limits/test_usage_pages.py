"""The page of usage, its CSV and /v1/usage: admins see the workspace's, members their own, outsiders nothing."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django.test import Client
from django.utils import timezone

from inference.models import NOBODY, UsageDay
from tests.webapp.api.conftest import key_client
from tests.webapp.limits.conftest import limit
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db
TODAY = date(2026, 11, 29)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 11, 29, 15, tzinfo=UTC))


@pytest.fixture(autouse=True)
def used(workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, charlie: User) -> None:
    key, _token = create_key(user=bob, workspace=workspace, name="Help desk", scopes=["chat"])
    spend(workspace, TODAY, alice, requests=3, read=1000, written=200)
    spend(workspace, TODAY - timedelta(days=6), bob, model="ft:demo", key=key.pk, source="api", read=5000)
    spend(workspace, TODAY - timedelta(days=7), alice, read=70_000)
    spend(workspace, date(2026, 10, 30), bob, read=900_000)
    spend(elsewhere, TODAY, charlie, model="secret model", read=123_456)


def spend(
    workspace: Workspace,
    day: date,
    user: User | None,
    *,
    model: str = "demo",
    key: Any = NOBODY,
    source: str = "chat",
    requests: int = 1,
    read: int = 0,
    written: int = 0,
) -> None:
    UsageDay.objects.create(
        workspace=workspace, day=day, user_id=user.pk if user else NOBODY, api_key_id=key, model_name=model,
        source=source, requests=requests, prompt_tokens=read, completion_tokens=written,
    )  # fmt: skip


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def words(answer: Any) -> str:
    """What the page's main part says, its tags as spaces."""
    page = answer.content.decode().split("<main", 1)[1].split("</main>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_an_admin_sees_the_workspaces_by_day_model_person_and_key(alice: User) -> None:
    answer = logged_in(alice).get("/usage/?range=7")
    said = words(answer)
    assert "4 requests: 6,000 tokens read and 200 written, by day (UTC)." in said
    assert "Most were used on Nov. 23, 2026: 5,000." in said
    assert "Nov. 29, 2026 3 1,000 200 1,200 Nov. 23, 2026 1 5,000 0 5,000" in said
    assert "ft:demo 1 5,000 0 5,000 demo 3 1,000 200 1,200" in said
    assert "Bob 1 5,000 0 5,000 Alice 3 1,000 200 1,200" in said
    assert re.search(
        r"Help desk \(fw-\w+…\) 1 5,000 0 5,000 Without a key: on this site&#x27;s pages 3", said
    )
    assert "secret model" not in said
    # Of the month it is, not of the days that are shown.
    assert "Tokens of this workspace 76,200 no limit" in said
    page = answer.content.decode()
    assert page.count('class="rect') == 14  # seven days, read and written
    assert "<script" not in page.split("<svg", 1)[1].split("</svg>")[0]


def test_a_member_sees_their_own_part_and_no_limits_of_others(workspace: Workspace, bob: User) -> None:
    limit(workspace, monthly_tokens=77_777)
    limit(workspace, user_id=bob.pk, monthly_tokens=20_000)
    client = logged_in(bob)
    said = words(client.get("/usage/?range=7"))
    assert "1 request: 5,000 tokens read" in said
    assert "By person" not in said
    assert "Alice" not in said
    assert "76,200" not in said
    assert "77,777" not in said
    assert "Your tokens 5,000 of 20,000" in said
    assert client.get("/").content.decode().count('href="/usage/"') == 1
    for path in ("/usage/limits/", "/usage/limits/workspace/", f"/usage/limits/members/{bob.pk}/"):
        assert client.get(path).status_code == 403
        assert client.post(path, {"monthly_tokens": ""}).status_code == (
            405 if path.endswith("limits/") else 403
        )


@pytest.mark.parametrize(
    ("asked", "heading", "said"),
    [
        ("30", "The last 30 days", "5 requests: 76,000 tokens read"),
        ("90", "The last 90 days", "6 requests: 976,000 tokens read"),
        ("2026-11", "November 2026", "5 requests: 76,000 tokens read"),
        ("2026-10", "October 2026", "1 request: 900,000 tokens read"),
        ("2026-09", "September 2026", "Nothing was used in these days."),
        *(
            (name, "The last 30 days", "5 requests")
            for name in ("0001-01", "9999-12", "2026-13", "'--", "9" * 40)
        ),
    ],
)
def test_the_days_shown_are_chosen(asked: str, heading: str, said: str, alice: User) -> None:
    answer = logged_in(alice).get("/usage/", {"range": asked})
    assert answer.status_code == 200
    assert f'<h2 id="days">{heading}</h2>' in answer.content.decode()
    assert said in words(answer)


def test_from_a_month_one_goes_to_those_beside_it_but_not_into_the_future(alice: User) -> None:
    page = logged_in(alice).get("/usage/?range=2026-10").content.decode()
    assert 'href="?range=2026-09"' in page
    assert page.count('href="?range=2026-11"') == 2
    assert 'href="?range=2026-12"' not in logged_in(alice).get("/usage/?range=2026-11").content.decode()


def test_nobodys_and_those_of_who_is_gone_have_names(workspace: Workspace, alice: User, bob: User) -> None:
    spend(workspace, TODAY, None, model="title", read=10)
    bob.memberships.all().delete()
    said = words(logged_in(alice).get("/usage/?range=7"))
    assert "Nobody: titles, visitors, people who are gone 1 10 0 10" in said
    assert "Bob 1 5,000" in said


def lines(answer: Any) -> list[list[str]]:
    assert isinstance(answer, StreamingHttpResponse)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(b"".join(answer).decode())))


def test_the_csv_has_every_line_and_no_cell_is_a_formula(
    workspace: Workspace, alice: User, bob: User
) -> None:
    for n, name in enumerate(
        ('=HYPERLINK("http://evil.example")', "+1", "-1", "@SUM(A1)", "＝1", "\tx", "Bob, =1")
    ):
        person = User.objects.create_user(f"p{n}@example.org", name=name)
        spend(workspace, TODAY, person, read=n)
    spend(workspace, TODAY, alice, model="=cmd|calc", read=9)
    answer = logged_in(alice).get("/usage/usage.csv?range=7")
    assert 'filename="usage-2026-11-23-2026-11-29.csv"' in answer.headers["Content-Disposition"]
    header, *rows = lines(answer)
    assert header == ["day", "person", "key", "model", "source", "requests", "input_tokens", "output_tokens"]
    assert rows[0][:2] == ["2026-11-23", "Bob"]
    assert rows[0][4:] == ["api", "1", "5000", "0"]
    assert rows[1] == [
        "2026-11-29",
        "Alice",
        "Without a key: on this site's pages",
        "demo",
        "chat",
        "3",
        "1000",
        "200",
    ]
    assert len(rows) == 10
    assert {cell[0] for row in rows for cell in row} & set("=+-@＝\t") == set()
    assert [row[1] for row in rows[2:]][:2] == ['\'=HYPERLINK("http://evil.example")', "'+1"]
    own = lines(logged_in(bob).get("/usage/usage.csv?range=7"))
    assert [row[1] for row in own] == ["person", "Bob"]


def test_a_long_csv_is_read_in_pieces_and_has_every_line_once(
    workspace: Workspace, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.api.usage_csv._PIECE", 3)
    for n in range(20):
        spend(workspace, TODAY - timedelta(days=n % 4), alice, model=f"m{n}", read=n)
    rows = lines(logged_in(alice).get("/usage/usage.csv?range=7"))[1:]
    assert sorted(row[3] for row in rows) == sorted(["demo", "ft:demo", *(f"m{n}" for n in range(20))])


# --- /v1/usage ------------------------------------------------------------------------------------------------


@pytest.fixture
def alices(alice: User, workspace: Workspace) -> Client:
    return key_client(alice, workspace, "admin")


def second(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def test_the_api_tells_usage_in_buckets_of_a_day(alices: Client) -> None:
    body = alices.get("/v1/usage").json()
    assert (body["object"], body["has_more"], body["next_page"], len(body["data"])) == (
        "page",
        False,
        None,
        7,
    )
    assert {bucket["end_time"] - bucket["start_time"] for bucket in body["data"]} == {86_400}
    last = body["data"][-1]
    assert last == {
        "object": "bucket",
        "start_time": second(TODAY),
        "end_time": second(TODAY) + 86_400,
        "results": [
            {
                "object": "usage.result",
                "input_tokens": 1000,
                "output_tokens": 200,
                "num_model_requests": 3,
                "model": None,
                "user_id": None,
                "api_key_id": None,
                "source": None,
            }
        ],
    }
    assert body["data"][1]["results"] == []


def test_it_is_grouped_as_asked(alices: Client, bob: User) -> None:
    asked = {"start_time": second(TODAY - timedelta(days=6)), "end_time": second(TODAY), "limit": 30}
    answer = alices.get("/v1/usage", {**asked, "group_by": ["model", "user_id", "api_key_id", "source"]})
    found = [result for bucket in answer.json()["data"] for result in bucket["results"]]
    assert [(r["model"], r["user_id"], r["source"], r["input_tokens"]) for r in found] == [
        ("ft:demo", str(bob.pk), "api", 5000)
    ]
    assert found[0]["api_key_id"] is not None
    answer = alices.get("/v1/usage", {"group_by": "user_id"})
    assert len(answer.json()["data"]) == 7


def test_pages_follow_each_other_to_the_end(alices: Client) -> None:
    asked: dict[str, Any] = {"start_time": second(date(2026, 10, 30)), "limit": 13}
    days: list[int] = []
    tokens = 0
    while True:
        body = alices.get("/v1/usage", asked).json()
        days += [bucket["start_time"] for bucket in body["data"]]
        tokens += sum(r["input_tokens"] for bucket in body["data"] for r in bucket["results"])
        if not body["has_more"]:
            break
        asked["page"] = body["next_page"]
    assert days == [second(date(2026, 10, 30)) + n * 86_400 for n in range(31)]
    assert tokens == 976_000


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"start_time": 2_000_000_000, "end_time": 1_000_000_000}, "end_time"),
        ({"page": "nonsense"}, "page"),
        ({"page": "2020-01-01"}, "page"),
        ({"page": "9999-12-31"}, "page"),
        ({"limit": 0}, "limit"),
        ({"limit": 181}, "limit"),
        ({"bucket_width": "1h"}, "bucket_width"),
        ({"group_by": "project_id"}, "group_by.0"),
        ({"start_time": -1}, "start_time"),
        ({"end_time": 10**20}, "end_time"),
        ({"project_ids": "x"}, "project_ids"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(asked: dict[str, Any], param: str, alices: Client) -> None:
    answer = alices.get("/v1/usage", asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_another_workspaces_usage_is_not_told(charlie: User, elsewhere: Workspace) -> None:
    body = key_client(charlie, elsewhere, "admin").get("/v1/usage").json()
    assert sum(r["input_tokens"] for bucket in body["data"] for r in bucket["results"]) == 123_456
