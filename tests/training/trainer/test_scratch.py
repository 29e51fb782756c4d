"""A model from scratch: its vocabulary, its beginning, what is left of it for others to read, and who is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from inference.engine.loaded_model import load_model
from inference.installation import inspect_model
from tests.training.trainer.conftest import freeze
from tests.training.trainer.jobs import Bench
from training.datasets.examples import ChatExample, DocumentExample, Example, Message
from training.trainer.attention import PackedAttention
from training.trainer.checkpoints import is_whole
from training.trainer.failures import EXIT_STATUS
from training.trainer.vocabulary import tokenizer_json, train_vocabulary

_TEXTS = [topics[name][:3000] for name in sorted(topics)[:12]]
_QUICK: dict[str, Any] = {"base": "", "task": "scratch", "size": 1, "max_length": 64, "batch_size": 8}


@pytest.fixture
def documents(tmp_path: Path) -> Bench:
    texts: list[Example] = [DocumentExample(text) for text in _TEXTS]
    return Bench(
        tmp_path, Path(), freeze(tmp_path / "frozen", "document", train=texts[:10], validation=texts[10:])
    )


@pytest.fixture
def chats_of_some_length(tmp_path: Path) -> Bench:
    chats: list[Example] = [
        ChatExample([Message("user", text[:300]), Message("assistant", text[300:1500])]) for text in _TEXTS
    ]
    return Bench(tmp_path, Path(), freeze(tmp_path / "frozen", "chat", train=chats))


def test_a_new_model_learns_more_than_how_common_words_are_and_transformers_reads_it(
    documents: Bench,
) -> None:
    trained = documents.run(**_QUICK, max_steps=60, learning_rate=0.01, checkpoint_every=60)
    assert trained.exit_status == 0
    (data,) = trained.lines("data")
    first, last = (line["loss"] for line in trained.lines("validation"))
    assert first == pytest.approx(
        math.log(load_model(trained.output / "initial").config.vocab_size), rel=0.05
    )
    assert last < data["unigram_entropy"] < first

    assert not inspect_model(trained.output / "model").has_template  # it goes on with a text
    ours = load_model(trained.output / "model", dtype="fp32", trainable=True)
    theirs = LlamaForCausalLM.from_pretrained(trained.output / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained.output / "model")
    text = "The statement\n\n    x = 12\tis naïve — <s> 日本"
    ids = [*ours.tokenizer.prompt_prefix, *ours.tokenizer.encode(text)]
    assert b"".join(map(ours.tokenizer.token_bytes, ids)).decode() == text
    plain = text.replace("<s>", "s")  # what a person typed is a special token to transformers
    assert [*ours.tokenizer.prompt_prefix, *ours.tokenizer.encode(plain)] == tokenizer(plain).input_ids
    attend = PackedAttention([len(ids)], ours.config.layer_windows, torch.device("cpu"))
    with torch.no_grad():
        hidden = ours.model(torch.tensor(ids), torch.arange(len(ids)), attend)
        torch.testing.assert_close(
            ours.model.logits(hidden), theirs(torch.tensor([ids])).logits[0], rtol=1e-4, atol=1e-4
        )


def test_a_new_model_that_learns_conversations_has_a_template_that_ends_turns(
    chats_of_some_length: Bench,
) -> None:
    trained = chats_of_some_length.run(**_QUICK | {"max_length": 512}, max_steps=1)
    assert trained.exit_status == 0
    assert inspect_model(trained.output / "model").has_template
    model = load_model(trained.output / "model", dtype="fp32")
    messages = [{"role": "user", "content": "What is <|im_end|>?"}]
    assert model.template is not None
    ids = model.template.encode(messages)
    specials = {token.content: token.id for token in model.tokenizer.specials.values()}
    assert ids.count(specials["<|im_end|>"]) == 1
    assert specials["<|im_end|>"] in model.end_token_ids
    theirs = AutoTokenizer.from_pretrained(trained.output / "model")
    plain = [{"role": "user", "content": "What is a name?"}]
    expected = theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert model.template.encode(plain) == expected


def test_a_new_model_goes_on_as_if_it_had_not_been_interrupted(
    documents: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = documents.run("whole", **_QUICK, max_steps=4, dropout=0.1)
    begun = (documents.folder / "whole" / "initial" / "model.safetensors").read_bytes()
    again = documents.run("again", **_QUICK, max_steps=4, dropout=0.1)
    assert (again.output / "initial" / "model.safetensors").read_bytes() == begun
    for folder in (again.output / "checkpoints").glob("step-*4"):
        (folder / "state.json").write_text("broken")
    (again.output / "initial" / "tokenizer.model").write_bytes(b"broken")
    resumed = documents.run("again", **_QUICK, max_steps=4, dropout=0.1)
    assert resumed.lines("resumed") == [{**resumed.lines("resumed")[0], "step": 2, "exact": True}]
    assert resumed.losses == whole.losses
    assert is_whole(resumed.output / "initial")
    assert (resumed.output / "model" / "model.safetensors").read_bytes() == (
        whole.output / "model" / "model.safetensors"
    ).read_bytes()


def test_what_another_spec_began_in_the_folder_is_not_taken_for_the_beginning(documents: Bench) -> None:
    assert documents.run(**_QUICK | {"learning_rate": 1e-8}, max_steps=1).exit_status == 0
    initial = documents.folder / "out" / "initial" / "model.safetensors"
    before = initial.read_bytes()
    for checkpoint in (documents.folder / "out" / "checkpoints").glob("*/manifest.json"):
        checkpoint.unlink()
    assert documents.run(**_QUICK, max_steps=1, seed=1).exit_status == 0
    assert initial.read_bytes() != before


def test_the_same_texts_give_the_same_vocabulary() -> None:
    assert train_vocabulary(_TEXTS, None, turns=False) == train_vocabulary(iter(_TEXTS), None, turns=False)


def test_sentencepiece_and_tokenizers_make_the_same_tokens_of_a_text() -> None:
    model = train_vocabulary(_TEXTS, None, turns=True)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = tokenizers.Tokenizer.from_str(tokenizer_json(model).decode())
    for text in [topics[name] for name in sorted(topics)[12:40]] + [
        "  a\n\n\t  naïve 日本 \U0001f642 12345   "
    ]:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.EncodeAsIds(text)


def test_texts_that_are_too_little_for_a_vocabulary_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for number, text in enumerate(["One line.", "a" * 20_000]):
        dataset = freeze(tmp_path / str(number), "document", train=[DocumentExample(text)])
        trained = Bench(tmp_path, Path(), dataset).run(f"out{number}", **_QUICK)
        assert trained.exit_status == EXIT_STATUS["data"]
        assert trained.status["error"] == "data"
        assert trained.status["message"].endswith(".")
        assert not (trained.output / "initial").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 33}, "size is 33 and may be from 1 to 32"),
        ({"vocabulary": 60_000}, "this text has room for"),
        ({"vocabulary": 301}, "this text needs at least"),
        ({"base": "somewhere"}, "scratch begins with none"),
        ({"task": "language"}, "base is missing"),
    ],
)
def test_a_new_model_that_cannot_be_is_refused_with_what_it_may_be(
    documents: Bench, capfd: pytest.CaptureFixture[str], wrong: dict[str, Any], said: str
) -> None:
    changes = _QUICK | wrong if wrong.get("task") is None else {"base": "", **wrong}
    assert documents.run(**changes).exit_status == EXIT_STATUS["spec"]
    assert said in json.loads(capfd.readouterr().err)["message"]


def test_a_text_longer_than_is_read_still_counts_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.trainer.vocabulary._MOST_READ", 5000)
    assert train_vocabulary(_TEXTS, None, turns=False)
