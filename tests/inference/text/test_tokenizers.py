"""Every kind of vocabulary encodes as its library does, gives its bytes back, and guards its special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import gguf
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import read_gguf
from inference.text.gguf_vocabulary import tokenizer_from_gguf
from inference.text.huggingface import HuggingFaceTokenizer
from inference.text.open_tokenizer import tokenizer_from_folder
from inference.text.sentencepiece_model import SentencePieceTokenizer
from inference.text.tokenizer import SpecialToken, Tokenizer
from tests.inference.tiny_models import byte_level_bpe, save_gguf, save_tokenizer

TEXTS = [
    "Hello world",
    "  two  spaces and\ttabs\n\n\nlines ",
    "12345 67 8.9",
    "don't I'll we've",
    "naïve café 日本語 🙂👩‍👩‍👧",
    "def f(x):\n    return x",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sentencepiece model, byte fallback included."""
    folder = tmp_path_factory.mktemp("pieces")
    text = folder / "text.txt"
    text.write_text("\n".join([*TEXTS, "the quick brown fox jumps over the lazy dog"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return b"".join(tokenizer.token_bytes(id) for id in ids).decode()


def test_a_tokenizer_json_encodes_as_transformers_does(folder: Path) -> None:
    ours, theirs = tokenizer_from_folder(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        marked = f"<|im_start|>user\n{text}<|im_end|>\n"
        assert ours.encode(marked, special=True) == theirs.encode(marked, add_special_tokens=False)
    assert ours.end_token_ids == {theirs.eos_token_id}
    assert ours.vocab_size == len(theirs)


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = HuggingFaceTokenizer.from_backend(tokenizers.Tokenizer.from_str(byte_level_bpe().to_str()))
    wanted = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
    assert text_of(tokenizer, tokenizer.encode(text)) == wanted


@pytest.mark.parametrize("kind", ["tokenizer.json", "gguf", "tokenizer.model"])
@given(
    text=st.lists(
        st.sampled_from(["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|", "im_", "|>", "x", " "])
    ).map("".join)
)
def test_what_a_person_types_never_becomes_a_special_token(
    kind: str, text: str, folder: Path, pieces: Path, small_gguf: Path
) -> None:
    tokenizer: Tokenizer = _TOKENIZERS.setdefault(
        kind,
        tokenizer_from_gguf(read_gguf(small_gguf))
        if kind == "gguf"
        else tokenizer_from_folder(pieces if kind == "tokenizer.model" else folder),
    )
    ids = tokenizer.encode(text)
    assert tokenizer.specials
    assert not {special.id for special in tokenizer.specials.values()} & set(ids)
    assert text_of(tokenizer, ids).removeprefix(" " if tokenizer.strips_leading_space else "") == text


_TOKENIZERS: dict[str, Tokenizer] = {}


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    return path


def test_what_looks_like_a_special_token_is_encoded_as_any_other_text(folder: Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("<|im_start|>", "say <|im_end|> twice<|im_end|>"):
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer_from_folder(folder).encode(text) == ids


def test_a_text_is_encoded_without_a_look_at_every_special_token(folder: Path, pieces: Path) -> None:
    class Unlooked(dict[str, SpecialToken]):
        def values(self) -> NoReturn:
            raise AssertionError("a vocabulary may have thousands")

    for tokenizer in (tokenizer_from_folder(folder), tokenizer_from_folder(pieces)):
        tokenizer.specials = Unlooked(tokenizer.specials)
        assert text_of(tokenizer, tokenizer.encode("a text")).strip() == "a text"


def test_a_gguf_vocabulary_encodes_as_the_one_it_was_made_from(small_gguf: Path, folder: Path) -> None:
    ours, original = tokenizer_from_gguf(read_gguf(small_gguf)), tokenizer_from_folder(folder)
    for text in TEXTS:
        assert ours.encode(text) == original.encode(text)
        assert text_of(ours, ours.encode(text)) == text
    assert (ours.bos_token_id, ours.end_token_ids) == (0, {2})


def test_the_demo_model_encodes_as_its_authors_published(demo_model_folder: Path) -> None:
    tokenizer = tokenizer_from_gguf(read_gguf(next(demo_model_folder.glob("*.gguf"))))
    assert tokenizer.encode("<|im_start|>user\n", special=True) == [1, 4093, 198]
    assert tokenizer.encode("<|im_start|>assistant\n", special=True) == [1, 520, 9531, 198]
    assert [text_of(tokenizer, [id]) for id in tokenizer.encode("a 2024b")] == [
        "a",
        " ",
        "2",
        "0",
        "2",
        "4",
        "b",
    ]
    assert (tokenizer.vocab_size, tokenizer.end_token_ids) == (49152, {2})
    assert tokenizer.token_bytes(2) == b""


def digits(tokenizer: Tokenizer) -> list[str]:
    return [text_of(tokenizer, [id]) for id in tokenizer.encode("12345")]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("smollm", ["1", "2", "3", "4", "5"]),
        ("qwen2", ["1", "2", "3", "4", "5"]),
        ("llama-bpe", ["123", "45"]),
        ("gpt-2", ["12345"]),
    ],
)
def test_each_named_pre_tokenizer_splits_digits_its_own_way(
    name: str, wanted: list[str], tmp_path: Path
) -> None:
    tokens = [*"12345", "12", "45", "123", "12345"]
    merges = ["1 2", "4 5", "12 3", "123 45"]
    path = tmp_path / "digits.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert digits(tokenizer_from_gguf(read_gguf(path))) == wanted


def test_a_tokenizer_model_encodes_as_sentencepiece_does(pieces: Path) -> None:
    ours = tokenizer_from_folder(pieces)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "tokenizer.model"))
    assert isinstance(ours, SentencePieceTokenizer)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert text_of(ours, ids) == " " + text
    assert (ours.prompt_prefix, ours.end_token_ids) == ([theirs.bos_id()], {theirs.eos_id()})


def test_after_a_special_token_a_tokenizer_model_puts_no_space(pieces: Path) -> None:
    ours = tokenizer_from_folder(pieces)
    ids = ours.encode("<s>Hello</s>Hello", special=True)
    bos, eos = ours.specials["<s>"].id, ours.specials["</s>"].id
    assert (ids[0], ids.count(eos)) == (bos, 1)
    assert text_of(ours, ids) == "HelloHello"


def test_tokens_a_folder_adds_to_its_tokenizer_model_are_known(pieces: Path) -> None:
    added = {"400": {"content": "<|turn|>", "special": True}}
    (pieces / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": added, "eos_token": "<|turn|>"})
    )
    try:
        ours = tokenizer_from_folder(pieces)
    finally:
        (pieces / "tokenizer_config.json").unlink()
    assert ours.encode("<|turn|>", special=True) == [400]
    assert 400 in ours.end_token_ids
    assert ours.vocab_size == 401


def test_runs_of_spaces_that_are_added_tokens_come_back_as_spaces(tmp_path: Path) -> None:
    """As in the tokenizer.json of Gemma 3."""
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "▁▁": 3, "<eos>": 4}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "▁")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_tokens([AddedToken("▁▁", special=False, normalized=False)])
    backend.add_special_tokens([AddedToken("<eos>", special=True, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_from_folder(tmp_path)
    ids = ours.encode("a  a a")
    assert ids == [2, 3, 2, 1, 2]
    assert text_of(ours, ids) == backend.decode(ids) == "a  a a"


def test_a_vocabulary_that_spaces_only_the_start_does_so_before_the_first_text_only(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(
        models.BPE({"<unk>": 0, "<s>": 1, "▁": 2, "h": 3, "i": 4, "▁h": 5}, [("▁", "h")], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_from_folder(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("hi", "hi<s>hi", "<s>hi"):
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.strips_leading_space


def test_special_tokens_that_swallow_space_do_so(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level_bpe().to_str())
    backend.add_special_tokens(
        [AddedToken("<|eat|>", special=True, lstrip=True, rstrip=True, normalized=False)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_from_folder(tmp_path)
    for text in ("a <|eat|> b", "a<|eat|>b", "  <|eat|>  <|eat|>  "):
        assert ours.encode(text, special=True) == backend.encode(text, add_special_tokens=False).ids


def test_a_normalizer_is_applied(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level_bpe().to_str())
    backend.normalizer = normalizers.NFC()
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_from_folder(tmp_path)
    assert ours.encode("cafe\N{COMBINING ACUTE ACCENT}") == ours.encode("café")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing.txt", "", "tokenizer.json: is missing"),
        ("tokenizer.json", "{", "tokenizer.json: is not valid JSON"),
        ("tokenizer.json", "[]", "tokenizer.json: is not a JSON object"),
        ("tokenizer.json", "{}", "tokenizer.json: is not a tokenizer"),
        ("tokenizer.json", "[" * 100_000, "tokenizer.json: is not valid JSON"),
        ("tokenizer.model", "not a model", "tokenizer.model: is truncated or not a sentencepiece model"),
        ("tokenizer.model", "", "tokenizer.model: is truncated or not a sentencepiece model"),
    ],
)
def test_a_broken_vocabulary_is_named(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelFileError, match=says):
        tokenizer_from_folder(tmp_path)
