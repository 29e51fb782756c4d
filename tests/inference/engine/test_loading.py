"""What is wrong with a model is a sentence that names the file, and never a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from inference.engine.engine import TorchEngine
from inference.engine.interface import ModelLoadError
from inference.engine.loaded_model import LoadedModel, resolve_dtype
from inference.engine.loader import load_engine
from inference.parameters import Regex, SamplingParams
from tests.inference.engine.running import ask, chat, run
from tests.inference.tiny_models import save_gguf

Damage = Callable[[Path], None]


def config(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def rope(kind: str, **values: Any) -> Damage:
    return config(rope_parameters={"rope_type": kind, "rope_theta": 10_000.0} | values)


def cut(name: str, share: float) -> Damage:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return change


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def template(source: str) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("config.json"), "no model"),
        (without("model.safetensors"), r"model\.safetensors: is missing"),
        (without("tokenizer.json"), r"tokenizer\.json: is missing"),
        (cut("model.safetensors", 0.6), r"model\.safetensors: is truncated"),
        (cut("model.safetensors", 0.01), r"model\.safetensors: is truncated"),
        (cut("config.json", 0.5), r"config\.json: is not valid JSON"),
        (cut("tokenizer.json", 0.5), r"tokenizer\.json: is not valid JSON"),
        (
            config(architectures=["MambaForCausalLM"]),
            r"config\.json: has the architecture 'MambaForCausalLM'",
        ),
        (config(architectures=None, model_type=None), "architecture"),
        (config(architectures="Llama"), "architecture"),
        (config(hidden_size=10**12), "hidden_size as 1000000000000, which is absurd"),
        (config(num_hidden_layers=-3), "absurd"),
        (config(num_hidden_layers=3.5), "absurd"),
        (config(vocab_size=True), "absurd"),
        (config(max_position_embeddings=None), "absurd"),
        (config(num_attention_heads=None), "absurd"),
        (config(num_attention_heads=0, head_dim=None), "lacks or garbles"),
        (config(rms_norm_eps=-1.0), "rms_norm_eps as -1.0"),
        (config(rms_norm_eps="small"), "lacks or garbles"),
        (config(num_attention_heads="six"), "absurd"),
        (config(num_key_value_heads=4), "over 4 key-value heads"),
        (rope("longrope", factor=2.0), "longrope"),
        (rope("yarn"), "the factor of its rotary scaling as None"),
        (rope("yarn", factor="two"), "the factor of its rotary scaling as 'two'"),
        (rope("yarn", factor=-2.0), "the factor of its rotary scaling as -2.0"),
        (rope("yarn", factor=float("nan")), "the factor of its rotary scaling as nan"),
        (rope("yarn", factor=2.0, rope_theta=1.0), "rope_theta as 1.0"),
        (rope("yarn", factor=2.0, attention_factor=-1.0), "attention_factor of its rotary scaling as -1.0"),
        (
            rope("yarn", factor=2.0, beta_fast=1.0, beta_slow=32.0),
            "beta_slow of 32, not below its beta_fast of 1",
        ),
        (rope("yarn", factor=2.0, original_max_position_embeddings=-8), "from -8 tokens, which is absurd"),
        (rope("yarn", factor=2.0, original_max_position_embeddings="many"), "lacks or garbles"),
        (rope("linear"), "the factor of its rotary scaling as None"),
        (rope("linear", factor=0), "the factor of its rotary scaling as 0"),
        (rope("default", rope_theta=10**400), "lacks or garbles"),
        (rope("default", rope_theta=-5.0), "rope_theta as -5.0"),
        (rope("default", partial_rotary_factor=0.5), "a part of each head"),
        (rope("llama3", factor=8.0), "lacks or garbles"),
        (
            rope("llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0),
            "low_freq_factor of 4, not below its high_freq_factor of 4",
        ),
        (config(rope_parameters=[1]), "lacks or garbles"),
        (config(hidden_act="gelu"), "gelu"),
        (config(quantization_config={"bits": 4}), "quantised weights"),
        (
            config(intermediate_size=90),
            r"stores .*mlp.* as \[96, 48\], but its configuration asks for \[90, 48\]",
        ),
        (config(num_hidden_layers=4), r"has no tensor model\.layers\.3"),
        (config(attention_bias=True), r"has no tensor .*bias"),
        (template("x" * 300_000), "chat template is longer"),
    ],
)
def test_a_damaged_folder_is_named(damage: Damage, says: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    damage(folder)
    with pytest.raises(ModelLoadError, match=says) as caught:
        load_engine(folder, dtype="fp32")
    assert "\n" not in str(caught.value)


def add_token(folder: Path, content: str, *, special: bool) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append(
        {"id": 400, "content": content, "special": special, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
    )
    path.write_text(json.dumps(values))


def test_a_vocabulary_larger_than_the_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    add_token(folder, "far", special=False)
    with pytest.raises(ModelLoadError, match="400 embeddings"):
        load_engine(folder, dtype="fp32")


def test_a_special_token_without_an_embedding_is_text_like_any_other(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    add_token(folder, "<|image|>", special=True)
    template("{% for m in messages %}{{ '<|image|>' + m.content }}{% endfor %}")(folder)
    engine = load_engine(folder, dtype="fp32")
    ids = engine.encode_prompt(chat("Look"))
    assert ids == load_engine(tiny_folder, dtype="fp32").encode_prompt(ask("<|image|>Look"))
    (answer,) = run(engine, chat("Look"))
    assert len(answer.token_ids) == 32 or answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("architecture", "metadata", "says"),
    [
        ("gpt2", {}, "has the architecture 'gpt2', which is not known here"),
        ("llama", {"tokenizer.ggml.pre": "unheard-of"}, "rules 'unheard-of'"),
        ("llama", {"llama.rope.scaling.type": "longrope"}, "'longrope'"),
    ],
)
def test_a_gguf_of_a_kind_we_do_not_know_is_named(
    architecture: str, metadata: dict[str, str], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    pre = metadata.pop("tokenizer.ggml.pre", "smollm")
    save_gguf(path, gguf.GGMLQuantizationType.F32, architecture=architecture, metadata=metadata, pre=pre)
    with pytest.raises(ModelLoadError, match=f"model.gguf: .*{says}"):
        load_engine(path)


def test_a_truncated_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.Q4_1)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=r"model\.gguf: is truncated"):
        load_engine(path)


def test_an_unknown_precision_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="fp4"):
        load_engine(tiny_folder, dtype="fp4")
    assert resolve_dtype("auto") in ("fp32", "bf16")


def test_the_authors_sampling_is_used_where_the_request_says_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    defaults = {
        "temperature": 0.0,
        "max_new_tokens": 7,
        "eos_token_id": [2, 9],
        "top_p": "nonsense",
        "top_k": -4,
    }
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    engine, plain = load_engine(folder, dtype="fp32"), load_engine(tiny_folder, dtype="fp32")
    (answer,) = run(engine, ask("The", sampling=SamplingParams(ignore_eos=True)))
    (greedy,) = run(plain, ask("The", sampling=SamplingParams(ignore_eos=True, temperature=0, max_tokens=7)))
    assert answer.token_ids == greedy.token_ids
    assert len(answer.token_ids) == 7
    (sampled,) = run(
        engine, ask("The", sampling=SamplingParams(ignore_eos=True, temperature=1.5, max_tokens=9))
    )
    assert sampled.token_ids[:7] != greedy.token_ids
    assert len(sampled.token_ids) == 9


def test_an_end_that_is_no_token_of_the_model_ends_nothing_and_troubles_no_grammar(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 10**9, -1]}))
    engine = load_engine(folder, dtype="fp32")
    assert {10**9, -1}.isdisjoint(engine._loaded.end_token_ids)
    digits = SamplingParams(max_tokens=12, response_format=Regex("[0-9]{3}"))
    (answer,) = run(engine, ask("The", sampling=digits))
    assert (answer.finish_reason, len(answer.text)) == ("stop", 3), answer.error


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_every_precision_answers_and_ends(dtype: str, tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype=dtype)
    answers = run(engine, *[chat(f"word {n} " * (n * 6 + 1), id=str(n)) for n in range(20)])
    assert {answer.finish_reason for answer in answers} <= {"length", "stop"}


def test_the_digest_of_a_gguf_is_that_of_the_file(loaded_demo: Callable[[str], LoadedModel]) -> None:
    engine = TorchEngine(loaded_demo("bf16"))
    assert engine.model_digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
