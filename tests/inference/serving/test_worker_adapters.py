"""A workspace's adapters answer on workers that run: the real engine, a tiny model, and nothing restarted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference import model_services, services
from inference.adapters import Adapters
from inference.engine.engine import TorchEngine
from inference.engine.interface import StepOutput
from inference.formats.digest import adapted_digest
from inference.models import ServedModel
from inference.parameters import SamplingParams
from inference.worker import WorkerHost
from tests.inference.serving.conftest import ENGINES, LONG, PAUSE, ended, load
from tests.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_adapter_answers_as_the_engine_does_with_it_and_not_as_its_base(
    base: ServedModel, adapter: Any, start: Callable[[], WorkerHost], ask: Any, alone: Callable[..., str]
) -> None:
    model, host = adapter("support"), start()
    plain, adapted = ask(base), ask(model)
    for generation in (plain, adapted):
        host.run(str(generation.id))
        assert ended(generation).state == "complete"
    assert adapted.text == alone(model) != plain.text == alone(base)
    assert plain.model_digest == base.digest
    assert adapted.model_digest == adapted_digest(base.digest, model.digest)
    admitted = services.token_log().read(adapted.id)[0]
    assert (admitted.type, admitted.data["model"]) == ("admitted", model.name)


def test_two_adapters_and_their_base_answer_in_one_batch(
    base: ServedModel,
    adapter: Callable[..., ServedModel],
    start: Callable[[], WorkerHost],
    ask: Any,
    alone: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [base, adapter("first", seed=7), adapter("second", seed=8)]
    together = 0
    step = TorchEngine.step

    def counting(engine: TorchEngine) -> list[StepOutput]:
        nonlocal together
        outputs = step(engine)
        together = max(together, len(outputs))
        return outputs

    monkeypatch.setattr(TorchEngine, "step", counting)
    PAUSE["seconds"] = 0.01
    host = start()
    asked = [ask(model) for model in models]
    for generation in asked:
        host.run(str(generation.id))
    assert [ended(generation).text for generation in asked] == [alone(model) for model in models]
    assert len({generation.text for generation in asked}) == 3
    assert together == 3


def test_an_adapter_that_is_new_answers_while_another_reply_is_being_written(
    base: ServedModel, adapter: Callable[..., ServedModel], start: Callable[[], WorkerHost], ask: Any
) -> None:
    host = start()
    PAUSE["seconds"] = 0.01
    streaming = ask(base, LONG)
    host.run(str(streaming.id))
    wait_until(lambda: len(services.token_log().read(streaming.id)) > 5, "the first words")
    new = ask(adapter("new"))
    host.run(str(new.id))
    assert ended(new).state == "complete"
    streaming.refresh_from_db()
    assert streaming.state == "running"
    services.cancel_generation(generation_id=streaming.id)
    assert 5 < ended(streaming).completion_tokens < 900


def test_an_adapter_that_cannot_be_read_fails_its_reply_and_nothing_else(
    base: ServedModel, adapter: Callable[..., ServedModel], start: Callable[[], WorkerHost], ask: Any
) -> None:
    broken, whole = adapter("broken", seed=1), adapter("whole", seed=2)
    weights = broken.location / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    host = start()
    failed, other = ask(broken), ask(whole)
    for generation in (failed, other):
        host.run(str(generation.id))
    assert (ended(failed).state, failed.error_code) == ("failed", "model_unavailable")
    assert failed.error_message.startswith(
        f"{broken.name} cannot be used. adapter_model.safetensors: is trunc"
    )
    assert ended(other).state == "complete"


def test_what_lies_where_an_adapter_lay_does_not_answer_for_it(
    adapter: Callable[..., ServedModel], start: Callable[[], WorkerHost], ask: Any
) -> None:
    model, other = adapter("one", seed=1), adapter("other", seed=2)
    for file in other.location.iterdir():
        (model.location / file.name).write_bytes(file.read_bytes())
    generation = ask(model)
    start().run(str(generation.id))
    assert ended(generation).error_message.endswith("Its files are not the ones that were registered.")


def test_an_adapter_that_was_removed_says_so(
    adapter: Callable[..., ServedModel], start: Callable[[], WorkerHost], ask: Any
) -> None:
    model = adapter("gone")
    model_services.remove_model(name=model.name)
    generation = ask(model)
    start().run(str(generation.id))
    assert (ended(generation).error_code, generation.error_message) == (
        "model_unavailable",
        f"{model.name} has been removed. Choose another model.",
    )


def test_another_worker_continues_a_reply_with_the_same_adapter(
    adapter: Any, start: Callable[[], WorkerHost], ask: Any, alone: Callable[..., str]
) -> None:
    model, first = adapter("support"), start()
    PAUSE["seconds"] = 0.02
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    generation = ask(model, params)
    first.run(str(generation.id))
    wait_until(lambda: len(services.token_log().read(generation.id)) > 10, "the first words")
    first.stop()
    generation.refresh_from_db()
    assert generation.state == "queued"
    PAUSE["seconds"] = 0.0
    start().run(str(generation.id))
    assert (ended(generation).state, generation.attempt) == ("complete", 2)
    assert generation.text == alone(model, params)


def test_what_one_model_has_computed_of_a_prompt_is_nothing_to_another(
    base: ServedModel, adapter: Callable[..., ServedModel], start: Callable[[], WorkerHost], ask: Any
) -> None:
    host = start()
    [engine] = ENGINES

    def reused(model: ServedModel) -> int:
        before = engine.prefix_use.reused
        generation = ask(model)
        host.run(str(generation.id))
        assert ended(generation).state == "complete"
        return engine.prefix_use.reused - before

    first, retrained = adapter("support", seed=1), adapter("support-2", seed=2)
    assert reused(base) == 0
    assert reused(first) == 0
    assert reused(retrained) == 0
    for model in (base, first, retrained):
        assert reused(model) > 0


def test_a_stop_that_comes_while_the_adapter_is_read_is_heard(
    adapter: Callable[..., ServedModel],
    start: Callable[[], WorkerHost],
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, host = adapter("support"), start()
    generation = ask(model, LONG)
    read = TorchEngine.read_adapter

    def stopped_meanwhile(engine: TorchEngine, folder: Path) -> Any:
        services.cancel_generation(generation_id=generation.id)
        return read(engine, folder)

    monkeypatch.setattr(TorchEngine, "read_adapter", stopped_meanwhile)
    PAUSE["seconds"] = 0.05  # all of it would take most of a minute
    host.run(str(generation.id))
    assert ended(generation).state == "cancelled"
    assert generation.completion_tokens < 10


def test_adapters_are_read_once_and_the_longest_unused_is_forgotten(
    base: ServedModel, adapter: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(base)
    reads: list[str] = []
    read = TorchEngine.read_adapter

    def noting(engine: TorchEngine, folder: Path) -> Any:
        reads.append(folder.name)
        return read(engine, folder)

    monkeypatch.setattr(TorchEngine, "read_adapter", noting)
    adapters = Adapters(engine, kept=2)
    models = {seed: adapter(f"number-{seed}", seed=seed) for seed in (1, 2, 3)}
    for seed in (1, 2, 1, 3, 1, 2):
        found = (adapters.known(models[seed]) or adapters.read(models[seed])).adapter
        assert found is not None
        assert found.digest == models[seed].digest
    assert reads == [models[seed].location.name for seed in (1, 2, 3, 2)]


def test_an_adapter_many_ask_for_at_once_is_read_once(
    base: ServedModel, adapter: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = load(base), adapter("support")
    adapters = Adapters(engine)
    all_there, reads, found = threading.Barrier(3), [], []
    read = TorchEngine.read_adapter

    def noting(engine: TorchEngine, folder: Path) -> Any:
        reads.append(folder)
        return read(engine, folder)

    monkeypatch.setattr(TorchEngine, "read_adapter", noting)

    def ask() -> None:
        all_there.wait(10)
        found.append(adapters.read(model).adapter)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(reads) == 1
    assert len({id(adapter) for adapter in found}) == 1
