"""Models that are not the default one answer on workers that run: loaded when they are asked for, and gone again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference import model_services, services, worker_services
from inference.engine import allocator
from inference.engine.config_folder import config_from_folder
from inference.engine.engine import TorchEngine
from inference.engine.interface import Admission, NotEnoughMemory, Request, StepOutput
from inference.engine.loader import load_engine
from inference.engine_thread import _TOO_SLOW, EngineThread
from inference.finisher import BROKE
from inference.formats.digest import adapted_digest
from inference.model_finder import NOT_THERE
from inference.models import Generation, ServedModel, Worker
from inference.parameters import SamplingParams
from inference.worker import WorkerHost
from tests.inference.engine.running import Answer, collect
from tests.inference.lora_adapters import save_adapter
from tests.inference.serving import conftest
from tests.inference.serving.conftest import ENGINES, LONG, MESSAGES, PARAMS, PAUSE, ended
from tests.inference.tiny_models import save_model, save_tokenizer, tiny_config
from tests.services import wait_until
from webapp.accounts.models import Workspace
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db(transaction=True)
Whole = Callable[..., ServedModel]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Whole models that answer differently."""
    made = []
    for layers in (1, 2):
        made.append(tmp_path_factory.mktemp("whole") / f"{layers}-layers")
        save_model(made[-1], tiny_config(num_hidden_layers=layers))
    return made


@pytest.fixture
def whole(folders: list[Path], workspace: Workspace) -> Whole:
    """Adds one as a job that has succeeded would."""

    def add(number: int = 0, owner: Workspace = workspace) -> ServedModel:
        return model_services.add_workspace_model(
            workspace=owner, name=f"ft:tiny:acme:whole-{number}:01234567", source=folders[number]
        )

    return add


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Models beside the default one are loaded once this is set."""
    may_load, load = threading.Event(), conftest.load

    def loading_late(model: ServedModel, *, beside: object = None) -> TorchEngine:
        assert beside is None or may_load.wait(20)
        return load(model, beside=beside)

    monkeypatch.setattr(conftest, "load", loading_late)
    yield may_load
    may_load.set()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is loaded, in that order."""
    names: list[str] = []
    load = conftest.load

    def noting(model: ServedModel, *, beside: object = None) -> TorchEngine:
        names.append(model.name)
        assert (beside is not None) == (len(names) > 1)
        return load(model, beside=beside)

    monkeypatch.setattr(conftest, "load", noting)
    return names


def run(host: WorkerHost, *generations: Generation) -> None:
    for generation in generations:
        host.run(str(generation.id))


def writing(generation: Generation) -> None:
    wait_until(lambda: len(services.token_log().read(generation.id)) > 3, "the first words")


def alone(model: ServedModel, adapter: Path | None = None, params: SamplingParams = PARAMS) -> str:
    """What an engine by itself answers."""
    engine = load_engine(model.location, dtype="fp32")
    name = engine.load_adapter("one", adapter) and "one" if adapter else ""
    answer = Answer()
    engine.submit(Request(id="one", messages=MESSAGES, sampling=params, adapter=name))
    collect(engine, {"one": answer})
    engine.close()
    return answer.text.replace("\x00", "\ufffd")


# --- What answers -----------------------------------------------------------------------------------------
def test_a_workspaces_whole_model_answers_as_an_engine_with_it_does_and_the_default_stays(
    base: ServedModel, whole: Whole, start: Callable[[], WorkerHost], ask: Any
) -> None:
    model, host = whole(), start()
    asked = [ask(model), ask(base), ask(model)]
    run(host, *asked)
    assert [ended(generation).text for generation in asked] == [alone(model), alone(base), alone(model)]
    assert asked[0].text != asked[1].text
    assert [generation.model_digest for generation in asked] == [model.digest, base.digest, model.digest]
    admitted = services.token_log().read(asked[0].id)[0]
    assert (admitted.type, admitted.data["model"]) == ("admitted", model.name)
    assert len(ENGINES) == 2


def test_another_base_model_of_the_site_answers_and_so_does_an_adapter_to_it(
    workspace: Workspace, folders: list[Path], start: Callable[[], WorkerHost], ask: Any, tmp_path: Path
) -> None:
    other = model_services.register_model(name="other", path=folders[1])
    assert not other.is_default
    source = save_adapter(tmp_path / "job", config_from_folder(other.location), seed=7)
    adapted = model_services.add_adapter(workspace=workspace, base=other, name="ft:other", source=source)
    assert adapted.is_served
    host, asked = start(), [ask(adapted), ask(other)]
    run(host, *asked)
    assert [ended(generation).text for generation in asked] == [alone(other, source), alone(other)]
    assert asked[0].text != asked[1].text
    assert asked[0].model_digest == adapted_digest(other.digest, adapted.digest)


def test_another_workspaces_model_answers_nobody(
    base: ServedModel, whole: Whole, elsewhere: Workspace, start: Callable[[], WorkerHost], ask: Any, tmp_path: Path
) -> None:  # fmt: skip
    """What a page or the API has let through stops at the worker."""
    source = save_adapter(tmp_path / "job", config_from_folder(base.location), seed=7)
    adapter = model_services.add_adapter(workspace=elsewhere, base=base, name="ft:theirs", source=source)
    host, asked = start(), [ask(whole(owner=elsewhere)), ask(adapter)]
    run(host, *asked)
    for generation in asked:
        assert (ended(generation).state, generation.error_code) == ("failed", "model_unavailable")
        assert (generation.error_message, generation.text) == (NOT_THERE, "")
    assert len(ENGINES) == 1


def test_where_a_worker_has_one_engine_other_models_are_not_served(
    base: ServedModel, whole: Whole, start: Callable[[], WorkerHost], ask: Any, settings: Any
) -> None:
    settings.INFERENCE_MAX_MODELS = 1
    model = whole()
    assert not model.is_served
    before, host = ask(model), start()
    with pytest.raises(UserError, match="No worker of this site serves whole-0 now") as refused:
        ask(model)
    assert (refused.value.code, refused.value.status, refused.value.retry_after) == (
        "model_not_served",
        503,
        30,
    )
    served = ask(base)
    run(host, before, served)
    assert ended(served).state == "complete"
    worker_services.reap()  # another worker may be about to start
    before.refresh_from_db()
    assert before.state == "queued"
    a_while = timedelta(seconds=61)
    Generation.objects.filter(id=before.id).update(deadline=before.deadline - a_while)
    Worker.objects.update(started_at=timezone.now() - a_while)
    worker_services.reap()
    assert (ended(before).state, before.error_code) == ("failed", "model_not_served")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: is missing from"),
        (lambda folder: _cut(folder / "model.safetensors"), "model.safetensors: is truncated"),
        (lambda folder: _turn(folder / "model.safetensors"), "Its files are not the ones that were registered."),
    ],
    ids=["missing", "truncated", "others"],
)  # fmt: skip
def test_a_model_whose_files_are_not_what_they_were_fails_its_reply_and_no_other(
    damage: Callable[[Path], None], said: str, base: ServedModel, whole: Whole, start: Callable[[], WorkerHost],
    ask: Any,
) -> None:  # fmt: skip
    broken, sound = whole(0), whole(1)
    damage(broken.location)
    PAUSE["seconds"] = 0.01
    host, streaming = start(), ask(base, LONG)
    run(host, streaming)
    writing(streaming)
    failed, other = ask(broken), ask(sound)
    run(host, failed, other)
    assert (ended(failed).state, failed.error_code) == ("failed", "model_unavailable")
    assert failed.error_message.startswith(f"{broken.name} cannot be used. ")
    assert said in failed.error_message
    assert ended(other).state == "complete"
    streaming.refresh_from_db()
    assert streaming.state == "running"
    services.cancel_generation(generation_id=streaming.id)
    ended(streaming)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def _turn(file: Path) -> None:
    """One bit is another."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_model_without_a_chat_template_goes_on_with_a_text(
    base: ServedModel, workspace: Workspace, start: Callable[[], WorkerHost], tmp_path: Path
) -> None:
    save_model(tmp_path / "job", tiny_config(num_hidden_layers=1, max_position_embeddings=64))
    save_tokenizer(tmp_path / "job", template=None)
    model = model_services.add_workspace_model(workspace=workspace, name="ft:own", source=tmp_path / "job")
    assert (base.kind, model.kind) == (ServedModel.Kind.CHAT, ServedModel.Kind.TEXT)
    host = start()
    text = "The quick brown fox jumps over the lazy dog. " * 20  # more than it can read at once
    going_on, talking = (
        services.start_generation(workspace=workspace, model=model, params=PARAMS, **given)  # type: ignore[arg-type]
        for given in ({"prompt": text}, {"messages": MESSAGES})
    )
    run(host, going_on, talking)
    assert ended(going_on).state == "complete"
    assert going_on.prompt_tokens == 48  # a quarter is left to the answer
    assert going_on.completion_tokens == 16
    assert (ended(talking).state, talking.error_code) == ("refused", "invalid_request")
    assert "it can continue a text, but not hold a conversation" in talking.error_message


# --- Loading ----------------------------------------------------------------------------------------------
def test_a_model_many_ask_for_at_once_is_loaded_once(
    base: ServedModel, whole: Whole, loaded: list[str], start: Callable[[], WorkerHost], ask: Any
) -> None:
    model, host = whole(), start()
    asked = [ask(model) for _ in range(4)]
    threads = [threading.Thread(target=run, args=(host, generation)) for generation in asked]
    for thread in threads:
        thread.start()
    assert len({ended(generation).text for generation in asked}) == 1
    for thread in threads:
        thread.join(20)
    assert loaded == [base.name, model.name]


def test_others_are_answered_while_a_model_is_loaded(
    base: ServedModel, whole: Whole, loading: threading.Event, start: Callable[[], WorkerHost], ask: Any
) -> None:
    host, waiting, other = start(), ask(whole()), ask(base)
    run(host, waiting, other)
    assert ended(other).state == "complete"
    waiting.refresh_from_db()
    assert waiting.state == "running"
    loading.set()
    assert ended(waiting).state == "complete"


def test_who_waits_for_a_model_is_stopped_at_once(
    whole: Whole, loading: threading.Event, start: Callable[[], WorkerHost], ask: Any
) -> None:
    model, host = whole(), start()
    stopped, kept = ask(model), ask(model)
    run(host, stopped, kept)
    services.cancel_generation(generation_id=stopped.id)
    assert ended(stopped).state == "cancelled"
    assert not loading.is_set()
    loading.set()
    assert ended(kept).state == "complete"
    stopped.refresh_from_db()
    assert (stopped.state, stopped.text) == ("cancelled", "")


@pytest.mark.parametrize("heard", [True, False])
def test_a_stop_that_comes_while_it_is_prepared_for_its_new_engine_is_no_less_one(
    heard: bool, whole: Whole, start: Callable[[], WorkerHost], ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation, later = ask(whole(), LONG), []
    prepare, submit, submitted = TorchEngine.prepare, TorchEngine.submit, []

    def stopped_meanwhile(engine: TorchEngine, request: Request) -> Any:
        if request.id != str(generation.id):
            later.append(request.id)
        elif heard:
            services.cancel_generation(generation_id=generation.id)
            assert ended(generation).state == "cancelled"  # at once, by whoever heard
        else:
            Generation.objects.update(cancel_requested=True)  # all there is while the broker is away
        return prepare(engine, request)

    def noting(engine: TorchEngine, request: Request, prepared: Any) -> Admission:
        submitted.append(request.id)
        return submit(engine, request, prepared)

    monkeypatch.setattr(TorchEngine, "prepare", stopped_meanwhile)
    monkeypatch.setattr(TorchEngine, "submit", noting)
    PAUSE["seconds"] = 0.05
    host = start()
    run(host, generation)
    assert ended(generation).state == "cancelled"
    assert generation.completion_tokens < 2
    other = ask(generation.model)
    run(host, other)
    assert ended(other).state == "complete"
    assert submitted == ([] if heard else [str(generation.id)]) + later


def test_who_waits_for_a_model_for_too_long_is_told(
    whole: Whole, loading: threading.Event, start: Callable[[], WorkerHost], ask: Any
) -> None:
    generation, host = ask(whole()), start()
    Generation.objects.update(deadline=timezone.now() + timedelta(seconds=0.5))
    run(host, generation)
    assert (ended(generation).error_code, generation.error_message) == ("deadline_exceeded", _TOO_SLOW)
    assert not loading.is_set()


def test_a_worker_that_stops_hands_over_who_waits_for_a_model(
    whole: Whole, loading: threading.Event, start: Callable[[], WorkerHost], ask: Any
) -> None:
    host, generation = start(), ask(whole())
    run(host, generation)
    host.stop()
    generation.refresh_from_db()
    assert (generation.state, generation.attempt, generation.crashes) == ("queued", 1, 0)


def test_who_waits_for_a_model_leaves_places_to_those_whose_model_is_there(
    base: ServedModel, whole: Whole, loading: threading.Event, start: Callable[[], WorkerHost], ask: Any,
    settings: Any,
) -> None:  # fmt: skip
    settings.INFERENCE_MAX_RUNNING = 2
    model = whole()
    host, first, second, other = start(), ask(model), ask(model), ask(base)
    assert host.wanted == [base.pk, model.pk]
    run(host, first)
    assert host.wanted == [base.pk]  # tasks of the other wait for who can take them
    run(host, second)  # it came before we had said so
    run(host, other)
    assert ended(other).state == "complete"
    second.refresh_from_db()
    assert second.state == "queued"
    loading.set()
    ended(first)
    assert host.wanted == [base.pk, model.pk]
    run(host, second)
    assert ended(second).state == "complete"


# --- Room -------------------------------------------------------------------------------------------------
def test_the_longest_unused_makes_room_and_gives_its_memory_back(
    base: ServedModel, whole: Whole, loaded: list[str], start: Callable[[], WorkerHost], ask: Any, settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings.INFERENCE_MAX_MODELS = 2
    dropped, gone = [], []
    give_back = allocator.give_back_all

    def noting() -> None:
        give_back()
        gone.append([ref() is None for ref in dropped])

    monkeypatch.setattr(allocator, "give_back_all", noting)
    first, second, host = whole(0), whole(1), start()
    for model in (first, second, first, base):
        generation = ask(model)
        run(host, generation)
        assert ended(generation).text == alone(model)
        if len(ENGINES) == 2:
            dropped.append(weakref.ref(ENGINES.pop()))
    assert gone == [[True], [True, True]]
    assert loaded == [base.name, first.name, second.name, first.name]


def test_a_model_that_answers_is_not_dropped_and_those_who_wait_have_their_turn(
    base: ServedModel, whole: Whole, loaded: list[str], start: Callable[[], WorkerHost], ask: Any, settings: Any
) -> None:  # fmt: skip
    settings.INFERENCE_MAX_MODELS = 2
    PAUSE["seconds"] = 0.005
    params = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
    first, second, host = whole(0), whole(1), start()
    growing = ask(first, params)
    run(host, growing)
    writing(growing)
    wanted, later = ask(second), ask(first)
    run(host, wanted)
    wait_until(lambda: first.pk not in host._engine._engines.takers(), "the first to take nobody more")
    run(host, later)
    assert ended(wanted).state == "complete"
    growing.refresh_from_db()
    assert (growing.state, growing.completion_tokens) == ("complete", 100)
    assert ended(later).state == "complete"
    assert later.admitted_at > wanted.admitted_at > growing.finished_at  # type: ignore[operator]
    assert loaded == [base.name, first.name, second.name, first.name]


def test_a_model_for_which_there_is_no_memory_has_an_idle_one_dropped_or_says_so(
    base: ServedModel, whole: Whole, start: Callable[[], WorkerHost], ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    load, there = conftest.load, []

    def loading_one(model: ServedModel, *, beside: object = None) -> TorchEngine:
        if beside and (model.size_bytes > 10**12 or any(ref() is not None for ref in there)):
            raise NotEnoughMemory(f"{model.name} needs more.")
        engine = load(model, beside=beside)
        if beside:
            there.append(weakref.ref(ENGINES.pop()))
        return engine

    monkeypatch.setattr(conftest, "load", loading_one)
    first, second, host = whole(0), whole(1), start()
    for model in (first, second):
        generation = ask(model)
        run(host, generation)
        assert ended(generation).state == "complete"
    ServedModel.objects.filter(pk=first.pk).update(size_bytes=10**13)
    generation = ask(first)
    run(host, generation)
    assert ended(generation).error_message == f"{first.name} cannot be used. {first.name} needs more."


def test_a_model_that_nobody_asks_any_more_makes_room_unasked(
    base: ServedModel, whole: Whole, loaded: list[str], start: Callable[[], WorkerHost], ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("inference.model_finder._UNUSED_AFTER", 0.2)
    monkeypatch.setattr("inference.model_finder._LOOK_EVERY", 0.02)
    model, host = whole(), start()
    PAUSE["seconds"] = 0.02  # it takes longer than it may be unused
    for _ in range(2):
        generation = ask(model)
        run(host, generation)
        assert ended(generation).text == alone(model)
        wait_until(lambda: not host._engine._engines.has(model), "the model to make room")
    assert loaded == [base.name, model.name, model.name]
    generation = ask(base)
    run(host, generation)
    assert ended(generation).state == "complete"


# --- Turns ------------------------------------------------------------------------------------------------
def test_an_engine_that_breaks_ends_its_own_replies_and_no_others(
    base: ServedModel, whole: Whole, loaded: list[str], start: Callable[[], WorkerHost], ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    PAUSE["seconds"] = 0.01
    model, host = whole(), start()
    streaming, doomed = ask(base, LONG), ask(model, LONG)
    run(host, streaming, doomed)
    writing(doomed)
    step = TorchEngine.step

    def breaking(engine: TorchEngine) -> list[StepOutput]:
        if engine.model_digest == model.digest:
            raise RuntimeError("the device is gone")
        return step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "step", breaking)
        assert (ended(doomed).state, doomed.error_code) == ("failed", "engine_error")
    assert doomed.error_message == BROKE
    assert doomed.completion_tokens > 0
    again = ask(model)
    run(host, again)
    assert ended(again).state == "complete"
    streaming.refresh_from_db()
    assert streaming.state == "running"
    services.cancel_generation(generation_id=streaming.id)
    assert ended(streaming).state == "cancelled"
    assert loaded == [base.name, model.name, model.name]


# --- Rest -------------------------------------------------------------------------------------------------
def test_the_memory_that_steps_used_is_given_back_once_after_the_last_reply(
    base: ServedModel, start: Callable[[], WorkerHost], ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engine_thread._REST_AFTER", 0.2)
    monkeypatch.setattr("inference.engine_thread._DEADLINES_EVERY", 0.02)
    given_back, waits, wait = [], [], EngineThread._wait

    def noting(engine_thread: EngineThread) -> None:
        waits.append(None)
        wait(engine_thread)

    monkeypatch.setattr(EngineThread, "_wait", noting)
    host, generation = start(), ask(base)
    monkeypatch.setattr(allocator, "give_back", lambda: given_back.append(time.monotonic()))
    run(host, generation)
    ended(generation)
    over = time.monotonic()
    wait_until(lambda: given_back, "the memory to be given back")
    assert given_back[0] > over  # and not between two steps
    waited = len(waits)
    wait_until(lambda: len(waits) > waited + 3, "some rounds without work")
    assert len(given_back) == 1
