"""A chat with a model of one's choice: who may choose which, what keeps to it, and what happens when it is gone."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.utils import timezone

from inference.access import get_model, models_for
from inference.follow import StepReader
from inference.models import Generation, ServedModel, Worker
from inference.services import finish_generation
from tests.webapp.websocket import Websocket
from webapp.accounts.models import User, Workspace
from webapp.asgi import application
from webapp.chat import services
from webapp.chat.live import LiveHub
from webapp.chat.models import Conversation, Message
from webapp.core.errors import NotFound, UserError

pytestmark = pytest.mark.django_db(transaction=True)
FACTS = {"architecture": "llama", "context_length": 2048, "parameters": 1, "size_bytes": 1}


@pytest.fixture(autouse=True)
def _memory_cache(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture
def default(db: None) -> ServedModel:
    return ServedModel.objects.create(name="demo", path="demo", digest="0", is_default=True, **FACTS)


@pytest.fixture
def tuned(default: ServedModel) -> Callable[..., ServedModel]:
    def tune(workspace: Workspace, suffix: str = "support", **fields: Any) -> ServedModel:
        name = f"ft:demo:acme:{suffix}:{uuid.uuid4().hex[:8]}"
        values = FACTS | {"base": default, "path": f"adapters/{name}", "digest": "1"} | fields
        return ServedModel.objects.create(name=name, workspace=workspace, **values)

    return tune


@pytest.fixture
def hers(client: Client, alice: User, workspace: Workspace) -> Client:
    client.force_login(alice)
    return client


def send(user: User, workspace: Workspace, **fields: Any) -> services.Sent:
    given: dict[str, Any] = {"conversation_id": None, "client_id": uuid.uuid4(), "text": "Hello"} | fields
    return services.send_message(user=user, workspace=workspace, **given)


def model_of(message: Message) -> ServedModel:
    assert message.generation is not None
    return message.generation.model


def picked(page: str) -> list[tuple[str, bool]]:
    """The picker's options that can be chosen: their labels, and whether it is the one that is."""
    options = re.findall(r"<option value=\"\d*\"( selected)?>([^<]+)</option>", page)
    return [(label, bool(selected)) for selected, label in options]


# --- Choosing ---------------------------------------------------------------------------------------------


def test_where_there_is_one_model_there_is_nothing_to_choose(
    hers: Client, default: ServedModel, tuned: Any, elsewhere: Workspace
) -> None:
    tuned(elsewhere)
    page = hers.get("/").content.decode()
    assert 'id="draft"' in page
    assert "composer-model" not in page


def test_a_new_chat_lists_the_default_and_the_workspaces_own(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, elsewhere: Workspace
) -> None:
    support = tuned(workspace)
    tuned(elsewhere, "theirs")
    tuned(workspace, "gone", removed_at=timezone.now())
    assert picked(hers.get("/").content.decode()) == [("demo", True), ("support", False)]
    assert picked(hers.get(f"/?model={support.pk}").content.decode()) == [("demo", False), ("support", True)]


def test_a_checkpoint_is_for_programs_and_is_not_listed(
    hers: Client, tuned: Any, workspace: Workspace
) -> None:
    tuned(workspace)
    checkpoint = tuned(workspace, "early", is_checkpoint=True)
    assert [label for label, _chosen in picked(hers.get("/").content.decode())] == ["demo", "support"]
    assert checkpoint in models_for(workspace)


def test_models_of_one_name_are_told_apart(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace
) -> None:
    older, newer = tuned(workspace), tuned(workspace)
    labels = [label for label, _ in picked(hers.get("/").content.decode())]
    assert labels == ["demo", f"support ({newer.name[-8:]})", f"support ({older.name[-8:]})"]


def test_every_model_that_workers_load_is_listed_and_none_that_judges(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace
) -> None:
    other = ServedModel.objects.create(name="other", path="other", digest="0", **FACTS)
    tuned(workspace, "spam", kind=ServedModel.Kind.CLASSIFIER)
    own, adapter = tuned(workspace, "own", base=None), tuned(workspace, base=other)
    page = hers.get("/").content.decode()
    assert picked(page) == [("demo", True), ("other", False), ("support", False), ("own", False)]
    assert "Not being served" not in page
    for model in (other, own, adapter):
        assert "is not being served" not in hers.get(f"/?model={model.pk}").content.decode()


def test_where_workers_have_one_engine_a_whole_model_of_a_workspace_is_listed_as_one_that_does_not_answer(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, settings: Any
) -> None:
    settings.INFERENCE_MAX_MODELS = 1
    ServedModel.objects.create(name="other", path="other", digest="0", **FACTS)
    own = tuned(workspace, "own", base=None)
    page = hers.get("/").content.decode()
    assert re.search(rf'<optgroup label="Not being served"><option value="{own.pk}" disabled>own<', page)
    assert "is not being served" not in page
    assert "“own” is not being served" in hers.get(f"/?model={own.pk}").content.decode()
    assert ">other<" not in page


def test_a_page_says_of_a_model_that_no_worker_serves_that_messages_to_it_are_refused(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    other = ServedModel.objects.create(name="other", path="other", digest="0", **FACTS)
    adapter = tuned(workspace, base=other)
    begun = [send(alice, workspace, model=str(chosen.pk)) for chosen in (default, adapter, other)]
    removed = send(alice, workspace, model=str(tuned(workspace, "gone").pk)).conversation
    ServedModel.objects.filter(pk=removed.model_id).update(removed_at=timezone.now())
    worker = Worker.objects.create(
        hostname="h", pid=1, state="ready", serves=[other.pk], lease_expires_at=timezone.now() + timedelta(minutes=1)
    )  # fmt: skip
    pages = ["/", f"/?model={adapter.pk}", *(f"/c/{sent.conversation.pk}/" for sent in begun)]

    def said(address: str) -> list[str]:
        page = hers.get(address).content.decode()
        found = re.findall(r'<p class="composer-note obstacle" id="(\w+)" role="status">([^<]+)', page)
        return [f"{id}: {sentence}" for id, sentence in found]

    with pytest.raises(UserError) as refused:
        send(alice, workspace)
    assert (refused.value.code, "demo" in refused.value.message) == ("model_not_served", True)
    no_default = [f"trouble: {refused.value.message}"]
    assert [said(page) for page in pages] == [no_default, [], no_default, [], []]
    [gone] = said(f"/c/{removed.pk}/")
    assert gone.startswith("trouble: “gone” has been removed.")
    assert gone.endswith(refused.value.message)
    # Another one comes that will, or both go, and are waited for.
    Worker.objects.create(
        hostname="h", pid=2, state="loading", serves=[default.pk],
        lease_expires_at=timezone.now() + timedelta(minutes=1),
    )  # fmt: skip
    assert [said(page)[:1] for page in pages[1:]] == [[], said("/"), [], []]
    assert said("/")[0].startswith("obstacle: The model is being loaded.")
    Worker.objects.exclude(pk=worker.pk).update(state="ready")
    assert [said(page) for page in pages] == [[]] * 5
    Worker.objects.all().delete()
    assert [said(page)[0].partition(".")[0] for page in pages] == [
        "obstacle: Nothing is here to answer right now"
    ] * 5


def test_a_model_that_only_goes_on_with_a_text_says_so_where_it_is_chosen_and_in_its_chats(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    note = "“stories” was trained on documents and holds no conversation: it goes on with what you write"
    model = tuned(workspace, "stories", base=None, kind=ServedModel.Kind.TEXT)
    page = hers.get("/").content.decode()
    assert re.search(rf'<option value="{model.pk}" data-note="{note}', page)
    assert re.search(r'id="about-model" role="status" hidden></p>', page)
    assert f'id="about-model" role="status">{note}' in hers.get(f"/?model={model.pk}").content.decode()
    sent = send(alice, workspace, model=str(model.pk))
    assert f'role="status">{note}' in hers.get(f"/c/{sent.conversation.pk}/").content.decode()


def test_such_a_model_is_given_all_that_was_written_as_one_text(
    default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    model = tuned(workspace, "stories", base=None, kind=ServedModel.Kind.TEXT)
    sent = send(alice, workspace, model=str(model.pk), text="Once upon a time")
    first = sent.reply.generation
    assert first is not None
    assert (first.prompt, first.messages) == ("Once upon a time", [])
    Generation.objects.update(state="complete", text=" there was a fox.")
    again = send(alice, workspace, conversation_id=sent.conversation.pk, text="It slept")
    assert again.reply.generation is not None
    assert again.reply.generation.prompt == "Once upon a time there was a fox.\nIt slept"
    Generation.objects.filter(pk=again.reply.generation.pk).update(state="complete", text=" well.")
    retried = services.retry_reply(reply=again.reply).generation
    assert retried is not None
    assert retried.prompt == "Once upon a time there was a fox.\nIt slept"


@pytest.mark.parametrize("wanted", ["9999999", "-1", "9" * 40, "demo", "1;drop", "²"])
def test_an_address_that_names_no_model_leads_nowhere(
    wanted: str, hers: Client, default: ServedModel, workspace: Workspace
) -> None:
    assert hers.get("/", {"model": wanted}).status_code == 404
    with pytest.raises(NotFound):
        get_model(workspace, wanted)


# --- Outsiders --------------------------------------------------------------------------------------------


def test_members_may_use_a_workspaces_models_and_for_others_there_are_none(
    default: ServedModel, tuned: Any, workspace: Workspace, elsewhere: Workspace, bob: User, charlie: User
) -> None:
    model = tuned(workspace)
    assert list(models_for(workspace)) == [default, model]
    assert list(models_for(elsewhere)) == [default]
    assert get_model(workspace, str(model.pk)) == model
    with pytest.raises(NotFound):
        get_model(elsewhere, str(model.pk))
    for person, status in ((bob, 200), (charlie, 404)):
        client = Client()
        client.force_login(person)
        assert client.get(f"/?model={model.pk}").status_code == status


@pytest.fixture
async def _tasks_end() -> AsyncIterator[None]:
    yield
    LiveHub.current()._task.cancel()
    LiveHub._of_loop.clear()
    await StepReader.current().close()


@pytest.mark.usefixtures("_tasks_end")
async def test_over_the_socket_another_workspaces_model_is_as_good_as_none_and_nothing_is_stored(
    default: ServedModel, tuned: Any, workspace: Workspace, elsewhere: Workspace, charlie: User
) -> None:
    model = await sync_to_async(tuned)(workspace)
    client = Client()
    await client.aforce_login(charlie)
    socket = Websocket(application, "/ws/chat/", client)
    await socket.connect()
    frame = {"type": "send", "conversation": None, "client_id": str(uuid.UUID(int=5)), "text": "Hello"}
    refused = await socket.ask(frame | {"model": str(model.pk)})
    assert (refused["type"], refused["code"], refused["client_id"]) == (
        "error",
        "not_found",
        frame["client_id"],
    )
    assert await socket.ask(frame | {"model": "123456"}) == refused
    assert (await socket.ask(frame | {"model": model.pk}))["code"] == "bad_frame"
    assert not await Conversation.objects.aexists()
    # What was typed can be sent again, to a model that is there.
    assert (await socket.ask(frame))["type"] == "accepted"
    await socket.disconnect()


# --- Keeping to it ----------------------------------------------------------------------------------------


def test_a_conversation_stays_with_the_model_it_was_begun_with(
    default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    model = tuned(workspace)
    sent = send(alice, workspace, model=str(model.pk))
    assert model_of(sent.reply) == model
    Generation.objects.update(state="complete", text="Hi.")
    again = send(alice, workspace, conversation_id=sent.conversation.pk)
    assert model_of(again.reply) == model
    Generation.objects.update(state="complete", text="Hi.")
    assert model_of(services.retry_reply(reply=again.reply)) == model
    assert model_of(send(alice, workspace).reply) == default


def test_a_conversation_whose_model_was_removed_goes_on_with_the_default_and_says_so(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    model = tuned(workspace)
    sent = send(alice, workspace, model=str(model.pk))
    Generation.objects.update(state="complete", text="Hi.")
    address = f"/c/{sent.conversation.pk}/"
    page = hers.get(address).content.decode()
    assert f'<p class="composer-model" title="{model.name}">' in page
    assert "has been removed" not in page
    ServedModel.objects.filter(pk=model.pk).update(removed_at=timezone.now())
    page = hers.get(address).content.decode()
    assert "“support” has been removed. The model of this site answers from here on." in page
    assert 'class="composer-model"' not in page
    assert model_of(send(alice, workspace, conversation_id=sent.conversation.pk).reply) == default


def test_what_was_accepted_stays_accepted_when_its_model_goes(
    default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    model, client_id = tuned(workspace), uuid.uuid4()
    first = send(alice, workspace, model=str(model.pk), client_id=client_id)
    ServedModel.objects.filter(pk=model.pk).update(removed_at=timezone.now())
    again = send(alice, workspace, model=str(model.pk), client_id=client_id)
    assert (again.message, again.is_new) == (first.message, False)


def test_a_reply_names_the_model_that_gave_it(
    hers: Client, default: ServedModel, tuned: Any, workspace: Workspace, alice: User, broker: object
) -> None:
    model = tuned(workspace)
    sent = send(alice, workspace, model=str(model.pk))
    Generation.objects.update(state="complete", text="Hi.")
    page = hers.get(f"/c/{sent.conversation.pk}/").content.decode()
    assert re.search(rf'<span class="model" title="{model.name} · [^"]+">support</span>', page)


@pytest.mark.parametrize("fields", [{}, {"base": None, "kind": ServedModel.Kind.TEXT}])
def test_a_title_is_asked_of_the_default_model_whichever_answered(
    fields: dict[str, Any],
    default: ServedModel,
    tuned: Any,
    workspace: Workspace,
    alice: User,
    broker: object,
) -> None:
    sent = send(alice, workspace, model=str(tuned(workspace, **fields).pk))
    assert sent.reply.generation is not None
    Generation.objects.update(state="running", attempt=1)
    sent.reply.generation.refresh_from_db()
    assert finish_generation(generation=sent.reply.generation, state="complete", text="Hi.")
    assert Generation.objects.get(purpose="title").model == default
