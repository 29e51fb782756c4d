"""Chat bubbles on customers' sites: who makes them, which pages may show them, and what a visitor can reach."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from inference.models import Generation, ServedModel
from webapp.accounts.models import User, Workspace
from webapp.api import widget_services as services
from webapp.api.models import Widget, WidgetMessage, WidgetSession
from webapp.api.tasks import sweep_widgets
from webapp.core.cache import SteadyRedisCache

LOOK = services.Look(
    name="Help", origins=("https://shop.example",), model=None, instructions="Be kind.", greeting="Hello!",
    theme="auto", accent="#1f6feb", messages_per_hour=2, messages_per_day=3, is_active=True,
)  # fmt: skip
FORM = {
    "name": "Help",
    "origins": "https://Shop.example\nhttps://*.shop.example",
    "theme": "dark",
    "messages_per_hour": 5,
    "messages_per_day": 50,
    "is_active": "on",
}


@pytest.fixture
def widget(alice: User, workspace: Workspace, model: ServedModel) -> Widget:
    return services.create_widget(user=alice, workspace=workspace, look=LOOK)


def visitor(widget: Widget) -> Client:
    token = Client().post(reverse("widget_sessions", args=[widget.pk])).json()["token"]
    return Client(headers={"Authorization": f"Visitor {token}", "Accept": "application/json"})


def say(client: Client, widget: Widget, text: str) -> Any:
    return client.post(
        reverse("widget_messages", args=[widget.pk]), json.dumps({"text": text}), "application/json"
    )


def end_all(text: str = "An answer.") -> None:
    Generation.objects.filter(state="queued").update(state="complete", text=text)


def test_an_admin_makes_changes_and_deletes_a_widget(alice: User, workspace: Workspace) -> None:
    page = Client()
    page.force_login(alice)
    made = page.post(reverse("widgets"), FORM)
    widget = Widget.objects.get()
    assert made["Location"] == reverse("widget_settings", args=[widget.pk])
    assert widget.origins == ["https://shop.example", "https://*.shop.example"]
    shown = page.get(made["Location"]).content.decode()
    assert "/widget.js" in shown
    assert shown.count(str(widget.pk)) >= 2  # in the tag to copy and in the form to delete it
    page.post(made["Location"], FORM | {"name": "Support"})
    widget.refresh_from_db()
    assert widget.name == "Support"
    assert not page.post(made["Location"], FORM | {"is_active": ""}).context
    assert Client().get(reverse("widget_frame", args=[widget.pk])).status_code == 404
    page.post(reverse("widget_delete", args=[widget.pk]))
    assert not Widget.objects.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": "https://shop.example/path"},
        {"origins": "javascript:alert(1)"},
        {"origins": "https://shop.example; script-src *"},
        {"origins": ""},
        {"accent": "red"},
        {"messages_per_day": 0},
        {"name": ""},
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    wrong: dict[str, object], alice: User, workspace: Workspace
) -> None:
    page = Client()
    page.force_login(alice)
    answer = page.post(reverse("widgets"), FORM | wrong)
    assert answer.status_code == 400
    assert 'class="field-error"' in answer.content.decode()
    assert not Widget.objects.exists()


def test_members_and_outsiders_have_no_widgets(
    bob: User, charlie: User, elsewhere: Workspace, widget: Widget
) -> None:
    for user, status in ((bob, 403), (charlie, 404)):
        page = Client()
        page.force_login(user)
        assert page.get(reverse("widget_settings", args=[widget.pk])).status_code == status
        assert page.post(reverse("widget_settings", args=[widget.pk]), FORM).status_code == status
        assert page.post(reverse("widget_delete", args=[widget.pk])).status_code == status
    assert Widget.objects.get().name == "Help"


def test_only_its_sites_may_show_it(widget: Widget) -> None:
    answer = Client().get(reverse("widget_frame", args=[widget.pk]))
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors https://shop.example" in policy
    assert "unsafe" not in policy
    assert "X-Frame-Options" not in answer.headers
    assert Client().get(reverse("home"), follow=True).headers["X-Frame-Options"] == "DENY"


def test_a_visitor_asks_and_the_model_hears_the_instructions_and_what_was_said(widget: Widget) -> None:
    client = visitor(widget)
    assert say(client, widget, "Where are you?").status_code == 200
    generation = Generation.objects.get()
    assert generation.messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Where are you?"},
    ]
    assert (generation.purpose, generation.user_id) == ("widget", None)
    again = say(client, widget, "Hello?")
    assert again.json()["error"]["code"] == "still_answering"
    end_all("In **Lisbon**.")
    said = client.get(reverse("widget_messages", args=[widget.pk])).json()["messages"]
    assert said[0] == {"role": "user", "text": "Where are you?"}
    assert "<strong>Lisbon</strong>" in said[1]["html"]
    say(client, widget, "And when?")
    last = Generation.objects.order_by("created_at").last()
    assert last is not None
    assert [turn["content"] for turn in last.messages][1:] == [
        "Where are you?",
        "In **Lisbon**.",
        "And when?",
    ]


def test_a_visitor_and_all_together_have_limits(widget: Widget) -> None:
    first, second = visitor(widget), visitor(widget)
    for _turn in range(2):
        say(first, widget, "Hello")
        end_all()
    refused = say(first, widget, "Hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "visitor_limit")
    assert refused.headers["Retry-After"]
    say(second, widget, "Hello")
    end_all()
    assert say(second, widget, "Hello").json()["error"]["code"] == "widget_limit"
    assert WidgetMessage.objects.filter(generation=None).count() == 3


def test_one_address_begins_only_so_many_conversations(widget: Widget) -> None:
    answers = [Client().post(reverse("widget_sessions", args=[widget.pk])) for _n in range(31)]
    assert [answer.status_code for answer in answers[-2:]] == [201, 429]


@pytest.mark.usefixtures("broker")
def test_a_conversation_begins_also_where_the_broker_comes_back_at_that_moment(
    widget: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: SteadyRedisCache, *args: Any) -> Any:
        return self.in_memory.add(*args)

    monkeypatch.setattr(SteadyRedisCache, "add", away)
    assert Client().post(reverse("widget_sessions", args=[widget.pk])).status_code == 201


def test_a_token_opens_its_own_conversation_and_nothing_else(
    widget: Widget, alice: User, workspace: Workspace
) -> None:
    other = services.create_widget(user=alice, workspace=workspace, look=LOOK)
    client = visitor(widget)
    say(client, widget, "a secret")
    end_all()
    assert client.get(reverse("widget_messages", args=[other.pk])).status_code == 401
    assert visitor(widget).get(reverse("widget_messages", args=[widget.pk])).json()["messages"] == []
    for nobody in (Client(), Client(headers={"Authorization": "Visitor nonsense"})):
        assert nobody.get(reverse("widget_messages", args=[widget.pk])).status_code == 401
        assert nobody.post(reverse("widget_stop", args=[widget.pk])).status_code == 401
    # No part of the site takes it, and no login opens a visitor's conversation.
    for path in ("/v1/models", reverse("home"), reverse("widgets")):
        assert client.get(path).status_code in (401, 302)
    page = Client()
    page.force_login(alice)
    assert page.get(reverse("widget_messages", args=[widget.pk])).status_code == 401


def test_nonsense_is_a_sentence(widget: Widget) -> None:
    client = visitor(widget)
    address = reverse("widget_messages", args=[widget.pk])
    for body in (
        "",
        "[]",
        "{",
        json.dumps({"text": 3}),
        json.dumps({"text": " "}),
        json.dumps({"text": "x" * 5000}),
    ):
        answer = client.post(address, body, "application/json")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
    assert client.get(reverse("widget_reply", args=[widget.pk])).json()["error"]["code"] == "nothing_asked"
    assert Client().get(reverse("widget_frame", args=[uuid.uuid4()])).status_code == 404
    say(client, widget, "Hello")
    assert client.get(reverse("widget_reply", args=[widget.pk]), {"after": "²"}).status_code == 200


def test_deleting_a_widget_deletes_what_was_said(widget: Widget, alice: User) -> None:
    say(visitor(widget), widget, "Hello")
    services.delete_widget(user=alice, widget=widget)
    assert not WidgetSession.objects.exists()
    assert not Generation.objects.exists()


def test_all_conversations_that_nobody_came_back_to_for_a_month_are_forgotten(
    widget: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_FORGET_AT_ONCE", 2)
    clients = [visitor(widget) for _n in range(5)]
    say(clients[0], widget, "Hello")
    WidgetSession.objects.update(seen_at=timezone.now() - timedelta(days=31))
    kept = visitor(widget)
    say(kept, widget, "Hello again")
    sweep_widgets()
    assert [client.get(reverse("widget_messages", args=[widget.pk])).status_code for client in clients] == [
        401
    ] * 5
    assert len(kept.get(reverse("widget_messages", args=[widget.pk])).json()["messages"]) == 2
    assert Generation.objects.count() == 1


def test_the_script_may_be_loaded_by_any_site(client: Client, db: None, alice: User) -> None:
    answer = client.get("/widget.js")
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
