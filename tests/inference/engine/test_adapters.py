"""Adapters in one batch with the base model and each other: token for token what peft says, whatever comes and goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from inference.engine import adapter_manager
from inference.engine.config import ModelConfig
from inference.engine.config_folder import config_from_folder
from inference.engine.config_gguf import config_from_gguf
from inference.engine.engine import TorchEngine
from inference.engine.interface import InvalidAdapter, Request, UnknownAdapter
from inference.engine.loaded_model import LoadedModel
from inference.engine.loader import load_engine
from inference.engine.lora import LoraStack
from inference.formats.gguf_file import read_gguf
from inference.parameters import SamplingParams
from tests.inference.engine.references import gguf_reference, kept_reference
from tests.inference.engine.running import Answer, ask, assert_greedy, chat, collect, run
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_gguf, save_model, tiny_config

ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 8},
    "attention": {"r": 4, "modules": ("q_proj", "v_proj")},
    "rank-stabilised": {"r": 5, "use_rslora": True},
    "feed-forward": {"r": 16, "modules": ("up_proj", "down_proj"), "lora_alpha": 3},
    "patterns": {
        "r": 8,
        "rank_pattern": {"q_proj": 2, "down_proj": 16},
        "alpha_pattern": {"q_proj": 3, "o_proj": 5},
    },
    "outputs": {"r": 1, "modules": ("o_proj", "k_proj", "gate_proj")},
}
PROMPTS = ["The quick brown fox", "12345 and " * 40]
TOKENS = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)


class Oracle:
    """The base model in transformers, with adapters by peft."""

    def __init__(self, model: PreTrainedModel, folders: dict[str, Path]) -> None:
        names = list(folders)
        self.model = PeftModel.from_pretrained(model, folders[names[0]], adapter_name=names[0]).eval()
        for name in names[1:]:
            self.model.load_adapter(folders[name], adapter_name=name)

    def check(self, adapter: str, prompt: list[int], answer: Answer) -> None:
        assert answer.token_ids
        if adapter:
            self.model.set_adapter(adapter)
            assert_greedy(self.model, prompt, answer.token_ids)
        else:
            with self.model.disable_adapter():
                assert_greedy(self.model, prompt, answer.token_ids)


@pytest.fixture(scope="module")
def config(tiny_folder: Path) -> ModelConfig:
    return config_from_folder(tiny_folder)


@pytest.fixture(scope="module")
def folders(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, config, seed=n, **settings)
        for n, (name, settings) in enumerate(ADAPTERS.items())
    }


@pytest.fixture(scope="module")
def oracle(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(save_model(tmp_path_factory.mktemp("reference")), folders)


@pytest.fixture
def loaded(engine: TorchEngine, folders: dict[str, Path]) -> TorchEngine:
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    return engine


def _few_slots(tiny_folder: Path, folders: dict[str, Path], slots: int, **options: Any) -> TorchEngine:
    engine = load_engine(tiny_folder, dtype="fp32", max_loras=slots, **options)
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    return engine


def _all(sampling: SamplingParams = TOKENS, prompts: list[str] = PROMPTS) -> list[Request]:
    """Every prompt by the base model and by every adapter."""
    return [
        ask(prompt, id=f"{name} {n}", adapter=name, sampling=sampling)
        for n, prompt in enumerate(prompts)
        for name in ("", *ADAPTERS)
    ]


def _check(engine: TorchEngine, oracle: Oracle, requests: list[Request], answers: list[Answer]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        oracle.check(request.adapter, engine.encode_prompt(request), answer)


# --- The same as peft ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["", *ADAPTERS])
def test_alone_an_adapter_says_what_peft_says(name: str, loaded: TorchEngine, oracle: Oracle) -> None:
    request = ask(PROMPTS[0], adapter=name, sampling=TOKENS)
    _check(loaded, oracle, [request], run(loaded, request))


def test_all_adapters_and_the_base_in_one_batch_say_what_peft_says(
    loaded: TorchEngine, oracle: Oracle
) -> None:
    requests = _all()
    _check(loaded, oracle, requests, run(loaded, *requests))


def test_the_adapters_differ_from_the_base_and_from_each_other(loaded: TorchEngine) -> None:
    answers = run(loaded, *_all(prompts=PROMPTS[:1]))
    assert len({tuple(answer.token_ids) for answer in answers}) == 1 + len(ADAPTERS)


def test_in_chunks_beside_others_a_long_prompt_is_the_same(loaded: TorchEngine, oracle: Oracle) -> None:
    requests = [
        ask("a b c", id="first", adapter="all", sampling=LONG),
        ask("12345 and " * 60, id="base", sampling=TOKENS),
        ask("12345 and " * 60, id="long", adapter="patterns", sampling=TOKENS),
    ]
    assert len(loaded.encode_prompt(requests[2])) > 256
    _check(loaded, oracle, requests, run(loaded, *requests))


def test_who_lost_their_memory_to_others_begin_again_with_the_same_adapter(
    tiny_folder: Path, folders: dict[str, Path], oracle: Oracle
) -> None:
    engine = _few_slots(tiny_folder, folders, 3, kv_tokens=1024, max_running=8)
    requests = _all(LONG, [f"{n} " * 40 for n in range(2)])
    _check(engine, oracle, requests, run(engine, *requests))


def test_what_peft_itself_saves_is_read(engine: TorchEngine, tmp_path: Path) -> None:
    settings = LoraConfig(
        r=4, lora_alpha=8, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(save_model(tmp_path / "base"), settings).eval()
    model.save_pretrained(tmp_path / "adapter")
    engine.load_adapter("theirs", tmp_path / "adapter")
    request = ask(PROMPTS[0], adapter="theirs", sampling=TOKENS)
    (answer,) = run(engine, request)
    assert_greedy(model, engine.encode_prompt(request), answer.token_ids)


@pytest.mark.parametrize(
    "changes",
    [{"attention_bias": True, "mlp_bias": True}, {"head_dim": 16}, {"num_key_value_heads": 6}],
    ids=str,
)
def test_a_base_of_another_shape_takes_adapters_too(changes: dict[str, Any], tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", tiny_config(**changes))
    engine = load_engine(tmp_path / "base", dtype="fp32")
    folder = save_adapter(tmp_path / "adapter", config_from_folder(tmp_path / "base"))
    engine.load_adapter("all", folder)
    requests = [ask(PROMPTS[0], id=name, adapter=name, sampling=TOKENS) for name in ("", "all")]
    _check(engine, Oracle(model, {"all": folder}), requests, run(engine, *requests))


def test_a_gguf_takes_an_adapter_trained_on_the_same_weights_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.F32)
    reference = gguf_reference(path)
    engine = load_engine(path, dtype="fp32")
    folder = save_adapter(tmp_path / "adapter", config_from_gguf(read_gguf(path)), strength=0.3)
    engine.load_adapter("all", folder)
    requests = [ask(PROMPTS[0], id=name, adapter=name, sampling=TOKENS) for name in ("", "all")]
    _check(engine, Oracle(reference, {"all": folder}), requests, run(engine, *requests))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_in_lower_precision_nearly_every_token_is_as_likely_as_the_likeliest(
    dtype: str, tiny_folder: Path, config: ModelConfig, tmp_path: Path
) -> None:
    engine = load_engine(tiny_folder, dtype=dtype)
    folder = save_adapter(tmp_path / "adapter", config, strength=0.5)
    engine.load_adapter("all", folder)
    oracle = Oracle(save_model(tmp_path / "base"), {"all": folder})
    request = ask(PROMPTS[0], adapter="all", sampling=LONG)
    (answer,) = run(engine, request)
    oracle.model.set_adapter("all")
    ids = engine.encode_prompt(request)
    with torch.inference_mode():
        logits = oracle.model(torch.tensor([ids + answer.token_ids])).logits[0, len(ids) - 1 : -1]
    best = (logits.argmax(dim=1) == torch.tensor(answer.token_ids)).float().mean()
    assert best > 0.8


# --- The cache ----------------------------------------------------------------------------------------------
def test_a_prompt_computed_by_one_adapter_is_found_by_it_alone(loaded: TorchEngine, oracle: Oracle) -> None:
    def reused(adapter: str) -> int:
        before = loaded.prefix_use.reused
        request = ask(PROMPTS[1], adapter=adapter, sampling=TOKENS)
        _check(loaded, oracle, [request], run(loaded, request))
        return loaded.prefix_use.reused - before

    assert reused("all") == 0
    assert reused("patterns") == reused("") == 0
    assert reused("all") > 100


def test_another_adapter_under_the_same_name_never_reads_the_keys_of_the_first(
    loaded: TorchEngine, folders: dict[str, Path], oracle: Oracle
) -> None:
    first = ask(PROMPTS[1], adapter="all", sampling=TOKENS)
    (before,) = run(loaded, first)
    digest = loaded.load_adapter("all", folders["patterns"])
    assert digest == loaded.load_adapter("again", folders["patterns"])
    use = loaded.prefix_use.reused
    (after,) = run(loaded, first)
    assert loaded.prefix_use.reused == use
    oracle.check("patterns", loaded.encode_prompt(first), after)
    loaded.load_adapter("all", folders["all"])
    assert run(loaded, first)[0].token_ids == before.token_ids
    assert loaded.prefix_use.reused > use


# --- Coming and going ---------------------------------------------------------------------------------------
def test_a_new_version_serves_new_requests_and_the_old_one_those_that_are_here(
    loaded: TorchEngine, folders: dict[str, Path], oracle: Oracle
) -> None:
    old = ask(PROMPTS[0], id="old", adapter="all", sampling=LONG)
    new = ask(PROMPTS[0], id="new", adapter="all", sampling=TOKENS)
    answers = {"old": Answer(), "new": Answer()}
    loaded.submit(old)
    for _ in range(5):
        for output in loaded.step():
            answers["old"].token_ids += output.token_ids
    loaded.load_adapter("all", folders["attention"])
    loaded.submit(new)
    collect(loaded, answers)
    loaded.check_integrity()
    assert len(answers["old"].token_ids) == 80
    oracle.check("all", loaded.encode_prompt(old), answers["old"])
    oracle.check("attention", loaded.encode_prompt(new), answers["new"])


def test_a_removed_adapter_finishes_what_it_began_and_begins_nothing(
    loaded: TorchEngine, oracle: Oracle
) -> None:
    request = ask(PROMPTS[0], adapter="all", sampling=TOKENS)
    loaded.submit(request)
    loaded.remove_adapter("all")
    loaded.remove_adapter("never there")
    with pytest.raises(UnknownAdapter, match="'all'"):
        loaded.submit(ask("The", id="two", adapter="all"))
    answers = {"one": Answer()}
    collect(loaded, answers)
    oracle.check("all", loaded.encode_prompt(request), answers["one"])


@pytest.mark.parametrize("slots", [1, 2])
def test_more_adapters_than_slots_take_turns_and_all_say_what_peft_says(
    slots: int, tiny_folder: Path, folders: dict[str, Path], oracle: Oracle
) -> None:
    engine = _few_slots(tiny_folder, folders, slots)
    requests = _all()
    for _ in range(2):  # the second time all were there before, and had to go
        _check(engine, oracle, requests, run(engine, *requests))


def _order(engine: TorchEngine, *requests: Request) -> list[str]:
    """Who ended when."""
    for request in requests:
        engine.submit(request)
    ended: list[str] = []
    for _ in range(1000):
        if not engine.has_work:
            break
        ended += [output.request_id for output in engine.step() if output.finish_reason]
        engine.check_integrity()
    return ended


def _short(id: str, adapter: str, tokens: int) -> Request:
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    return ask("The", id=id, adapter=adapter, sampling=sampling)


def test_while_one_waits_for_a_slot_the_base_passes_and_no_adapter_does(
    tiny_folder: Path, folders: dict[str, Path]
) -> None:
    engine = _few_slots(tiny_folder, folders, 1)
    order = _order(
        engine,
        _short("holds the slot", "all", 20),
        _short("waits for it", "attention", 4),
        _short("would keep the slot", "all", 4),
        _short("base", "", 4),
    )
    assert order == ["base", "holds the slot", "waits for it", "would keep the slot"]


def test_a_steady_stream_for_one_adapter_does_not_keep_another_waiting(
    tiny_folder: Path, folders: dict[str, Path]
) -> None:
    engine = _few_slots(tiny_folder, folders, 1)
    engine.submit(_short("stream 0", "all", 10))
    engine.step()
    engine.submit(_short("other", "attention", 4))
    for n in range(1, 100):
        engine.submit(_short(f"stream {n}", "all", 10))
        if any(output.request_id == "other" for _ in range(5) for output in engine.step()):
            return
    raise AssertionError("the other adapter never had its turn")


@pytest.fixture
def smallest_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others are answered, a step does as little as it can for the adapters that are to come."""
    monkeypatch.setattr(adapter_manager, "_PIECE", 0.0)


@pytest.mark.usefixtures("smallest_pieces")
def test_answers_go_on_while_an_adapter_is_put_beside_the_weights_piece_by_piece(
    loaded: TorchEngine, oracle: Oracle
) -> None:
    requests = [
        ask(PROMPTS[0], id="here", adapter="all", sampling=LONG),
        ask(PROMPTS[0], id="comes", adapter="patterns", sampling=TOKENS),
    ]
    answers = {request.id: Answer() for request in requests}
    loaded.submit(requests[0])
    loaded.step()
    loaded.submit(requests[1])
    before = 0
    while not answers["comes"].token_ids:
        outputs = loaded.step()
        assert any(output.request_id == "here" and output.token_ids for output in outputs)
        before += 1
        for output in outputs:
            answers[output.request_id].token_ids += output.token_ids
    assert before > 5
    collect(loaded, answers)
    answers["here"].token_ids.insert(0, run(loaded, requests[0])[0].token_ids[0])
    _check(loaded, oracle, requests, list(answers.values()))


@pytest.mark.usefixtures("smallest_pieces")
def test_an_adapter_that_comes_back_while_the_stack_is_made_without_it_waits_for_the_next(
    tiny_folder: Path, folders: dict[str, Path], oracle: Oracle
) -> None:
    engine = _few_slots(tiny_folder, folders, 3)
    requests = [
        ask(PROMPTS[0], id="stays", adapter="all", sampling=LONG),
        ask(PROMPTS[0], id="takes the slot", adapter="attention", sampling=TOKENS),
        ask(PROMPTS[0], id="comes back", adapter="patterns", sampling=TOKENS),
    ]
    run(engine, *(_short(name, name, 2) for name in ("patterns", "outputs", "all")))
    answers = {request.id: Answer() for request in requests}
    for request in requests:
        engine.submit(request)
        for _ in range(2):
            for output in engine.step():
                answers[output.request_id].token_ids += output.token_ids
    collect(engine, answers)
    engine.check_integrity()
    _check(engine, oracle, requests, list(answers.values()))


@pytest.mark.usefixtures("smallest_pieces")
@pytest.mark.parametrize("seed", range(3))
def test_whoever_comes_whenever_says_what_peft_says(
    seed: int, tiny_folder: Path, folders: dict[str, Path], oracle: Oracle
) -> None:
    chance = random.Random(seed)
    engine = _few_slots(tiny_folder, folders, 2, max_running=4)
    requests = _all()
    chance.shuffle(requests)
    answers = {request.id: Answer() for request in requests}
    for request in requests:
        engine.submit(request)
        for _ in range(chance.randrange(12)):
            for output in engine.step():
                answers[output.request_id].token_ids += output.token_ids
            engine.check_integrity()
    collect(engine, answers)
    engine.check_integrity()
    _check(engine, oracle, requests, list(answers.values()))


def test_cancelled_requests_give_their_slots_back_whether_they_began_or_not(
    tiny_folder: Path, folders: dict[str, Path], oracle: Oracle
) -> None:
    engine = _few_slots(tiny_folder, folders, 1)
    for id, adapter in (("runs", "all"), ("waits", "patterns")):
        engine.submit(_short(id, adapter, 100))
    for _ in range(3):
        engine.step()
    for id in ("runs", "waits"):
        engine.cancel(id)
        engine.step()
        engine.check_integrity()
    request = ask(PROMPTS[0], adapter="attention", sampling=TOKENS)
    _check(engine, oracle, [request], run(engine, request))


def test_of_too_many_names_the_longest_unused_is_forgotten(
    engine: TorchEngine, folders: dict[str, Path]
) -> None:
    adapter = engine.read_adapter(folders["outputs"])
    for n in range(32):
        engine.add_adapter(str(n), adapter)
    run(engine, ask("The", adapter="0"))
    engine.add_adapter("32", adapter)
    run(engine, ask("The", adapter="0"))
    with pytest.raises(UnknownAdapter):
        engine.submit(ask("The", adapter="1"))


# --- Walls --------------------------------------------------------------------------------------------------
def test_an_adapter_of_huge_numbers_moves_nobody_else(
    engine: TorchEngine, config: ModelConfig, folders: dict[str, Path], oracle: Oracle, tmp_path: Path
) -> None:
    """It may ruin its own answers; zero times infinity would be another's."""
    for name in ("all", "patterns"):
        engine.load_adapter(name, folders[name])
    engine.load_adapter("huge", save_adapter(tmp_path / "huge", config, strength=1e30))
    requests = [
        ask(PROMPTS[0], id=name, adapter=name, sampling=TOKENS) for name in ("", "all", "patterns", "huge")
    ]
    answers = run(engine, *requests)
    _check(engine, oracle, requests[:3], answers[:3])


@pytest.mark.parametrize("leaves", ["cancelled", "pushed out"])
def test_what_a_ruined_prompt_left_half_read_reaches_nobody_who_has_its_memory_next(
    leaves: str, engine: TorchEngine, config: ModelConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    engine.load_adapter("huge", save_adapter(tmp_path / "huge", config, strength=1e30))
    expected = run(engine, ask(PROMPTS[0], sampling=TOKENS, cache_salt="before"))
    engine.submit(ask("12345 and " * 100, id="ruined", adapter="huge", sampling=TOKENS))
    engine.step()
    (sequence,) = engine._scheduler.running
    assert 0 < sequence.computed < len(sequence.token_ids), "it is to be read in more than one step"
    assert not engine._cache.layers[-1].isfinite().all()
    if leaves == "pushed out":
        engine._scheduler._put_back(sequence)
    engine.cancel("ruined")
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    assert all(layer.isfinite().all() for layer in engine._cache.layers)
    assert run(engine, ask(PROMPTS[0], sampling=TOKENS, cache_salt="after")) == expected


class NoRoom:
    """Memory for adapters is short so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: float) -> None:
        self.left, self._stack = times, LoraStack._stack
        monkeypatch.setattr(LoraStack, "_stack", lambda *args: self(*args))

    def __call__(self, stack: LoraStack, layer: int, product: str) -> None:
        if self.left > 0:
            self.left -= 1
            raise torch.OutOfMemoryError("no room")
        self._stack(stack, layer, product)


def test_where_two_sets_of_adapters_have_no_room_beside_each_other_one_goes_first(
    engine: TorchEngine, folders: dict[str, Path], oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all", "patterns"):
        engine.load_adapter(name, folders[name])
    requests = [ask(PROMPTS[0], id=name, adapter=name, sampling=TOKENS) for name in ("", "all", "patterns")]
    for request in requests[:2]:
        engine.submit(request)
    answers = {request.id: Answer() for request in requests}
    collect(engine, answers, steps=4)
    NoRoom(monkeypatch, times=1)
    engine.submit(requests[2])
    collect(engine, answers)
    _check(engine, oracle, requests, [*answers.values()])
    engine.check_integrity()


def test_adapters_that_have_no_room_at_all_end_who_asked_for_them_and_nobody_else(
    engine: TorchEngine, folders: dict[str, Path], oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_adapter("all", folders["all"])
    requests = [ask(PROMPTS[0], id=name, adapter=name, sampling=TOKENS) for name in ("", "all")]
    short = NoRoom(monkeypatch, times=2)
    engine.submit(requests[0])
    answers = {request.id: Answer() for request in requests}
    collect(engine, answers, steps=2)
    engine.submit(requests[1])
    collect(engine, answers)
    assert short.left == 0
    assert "not enough memory" in answers["all"].error
    _check(engine, oracle, requests[:1], [answers[""]])
    engine.check_integrity()
    _check(engine, oracle, requests[1:], run(engine, requests[1]))


def test_an_adapter_of_another_model_is_refused_though_it_was_read_for_that_one(
    engine: TorchEngine, tmp_path: Path
) -> None:
    save_model(tmp_path / "base", tiny_config(num_hidden_layers=2))
    other = load_engine(tmp_path / "base", dtype="fp32")
    folder = save_adapter(tmp_path / "adapter", config_from_folder(tmp_path / "base"))
    with pytest.raises(InvalidAdapter, match="another model"):
        engine.add_adapter("other", other.read_adapter(folder))


# --- The demo model -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def demo(
    demo_model_folder: Path,
    loaded_demo: Callable[[str], LoadedModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, ...]]:
    path = next(demo_model_folder.glob("*.gguf"))
    root = tmp_path_factory.mktemp("demo")
    demo_config = config_from_gguf(read_gguf(path))
    folders = {
        "all": save_adapter(root / "all", demo_config, r=16, strength=0.2),
        "attention": save_adapter(
            root / "attention", demo_config, seed=1, r=64, strength=0.4, modules=("q_proj", "v_proj")
        ),
        "stable": save_adapter(root / "stable", demo_config, seed=2, r=8, strength=0.2, use_rslora=True),
    }
    engine = TorchEngine(loaded_demo("fp32"), max_loras=2)
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    yield engine, Oracle(kept_reference(path), folders)
    engine.close()


def test_on_the_demo_model_every_token_is_that_of_peft(
    demo_model_folder: Path, demo: tuple[TorchEngine, Oracle]
) -> None:
    engine, oracle = demo
    requests = [
        chat(said, id=f"{name} {n}", adapter=name, sampling=TOKENS)
        for n, said in enumerate(["Who wrote Hamlet?", "What makes the tides? " * 30])
        for name in ("", "all", "attention", "stable")
    ]
    _check(engine, oracle, requests, run(engine, *requests))
