"""Real sentencepiece vocabularies, out of a folder and out of a GGUF, encode as their authors' own code does."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import mistral_common
import pytest
import sentencepiece
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer as MistralTokenizer

from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import GgufFile, read_gguf
from inference.text.gguf_vocabulary import tokenizer_from_gguf
from inference.text.open_tokenizer import tokenizer_from_folder
from inference.text.tokenizer import Tokenizer

DATA = Path(mistral_common.__file__).parent / "data"
FILES = [
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240216.model.v2",
    "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7",
]
TEXTS = [
    "Hello world",
    "Hello",
    " Hello",
    "  two  spaces and\ttabs\n\n\nlines ",
    "12345 67 8.9 don't I'll",
    "naïve café, 日本語のテキスト und Übergröße",
    "🙂👩‍👩‍👧 ☃ \u202e \U0001f9ff \x00",
    "def f(x):\n    return x ** 2  # squares",
    "<s> [INST] </s> <unk> <0x41>",
    "a" * 300,
]


def save_as_gguf(path: Path, model: Path) -> None:
    """Pieces, scores and types of a tokenizer.model, as llama.cpp's converter writes them."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    kinds = {2: pieces.IsUnknown, 3: pieces.IsControl, 5: pieces.IsUnused, 6: pieces.IsByte}
    size = pieces.GetPieceSize()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.IdToPiece(id).encode() for id in range(size)])
    writer.add_token_scores([pieces.GetScore(id) for id in range(size)])
    writer.add_token_types(
        [next((kind for kind, is_so in kinds.items() if is_so(id)), 1) for id in range(size)]
    )
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=FILES)
def theirs(request: pytest.FixtureRequest) -> MistralTokenizer:
    return MistralTokenizer(DATA / request.param)


@pytest.fixture(scope="module", params=["folder", "gguf"])
def ours(
    request: pytest.FixtureRequest, theirs: MistralTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder = tmp_path_factory.mktemp("mistral")
    if request.param == "folder":
        shutil.copy(theirs.file_path, folder / "tokenizer.model")
        return tokenizer_from_folder(folder)
    save_as_gguf(folder / "model.gguf", theirs.file_path)
    return tokenizer_from_gguf(read_gguf(folder / "model.gguf"))


def test_a_mistral_vocabulary_encodes_and_decodes_as_mistrals_own_code(
    ours: Tokenizer, theirs: MistralTokenizer
) -> None:
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.prompt_prefix + ids == theirs.encode(text, bos=True, eos=False)
        decoded = b"".join(map(ours.token_bytes, ids)).decode()
        assert decoded.removeprefix(" ") == theirs.decode(ids, SpecialTokenPolicy.IGNORE)
        assert decoded == " " + text


def test_its_special_tokens_are_mistrals(ours: Tokenizer, theirs: MistralTokenizer) -> None:
    assert (ours.vocab_size, ours.bos_token_id) == (theirs.n_words, theirs.bos_id)
    assert ours.end_token_ids == {theirs.eos_id}
    assert ours.special_ids == theirs.special_ids
    for token, special in ours.specials.items():
        assert special.id == theirs.get_special_token(token)
        assert ours.encode(token, special=True) == [special.id]
        assert special.id not in ours.encode(token)


@cache
def _gemma(file: Path) -> Tokenizer:
    return tokenizer_from_gguf(read_gguf(file))


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_from_the_tokens_of_gemma(text: str, gemma_model_file: Path) -> None:
    tokenizer = _gemma(gemma_model_file)
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
    assert tokenizer.special_ids.isdisjoint(ids)


def test_gemma_encodes_as_google_published(gemma_model_file: Path) -> None:
    tokenizer = _gemma(gemma_model_file)
    assert (tokenizer.vocab_size, tokenizer.prompt_prefix, tokenizer.end_token_ids) == (262_144, [2], {1})
    assert not tokenizer.strips_leading_space
    assert tokenizer.encode("Hello world") == [9259, 1902]
    # Runs of spaces and of line ends, and HTML, are tokens of their own; digits are not joined.
    assert tokenizer.encode("\n\n\n  ") == [109, 138]
    assert tokenizer.encode("<table>") == [168]
    assert len(tokenizer.encode("12345")) == 5
    assert tokenizer.encode("<bos>x<start_of_turn>", special=True) == [2, 236781, 105]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer.ggml.scores": None}, "holds no score for each"),
        ({"tokenizer.ggml.scores": [0.0] * 3}, "holds no score for each"),
        ({"tokenizer.ggml.scores": ["high"] * 5}, "do not make a sentencepiece vocabulary"),
        ({"tokenizer.ggml.token_type": [1] * 3}, "not as many token types"),
        ({"tokenizer.ggml.token_type": [2, 2, 3, 1, 1]}, "do not make a sentencepiece vocabulary"),
        ({"tokenizer.ggml.token_type": [2, 3, 3, 1, "six"]}, "do not make a sentencepiece vocabulary"),
        ({"tokenizer.ggml.token_type": [2, 3, 3, 1, 6]}, "do not make a sentencepiece vocabulary"),
        ({"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "a"]}, "the same token twice"),
        (
            {"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", ""]},
            "do not make a sentencepiece vocabulary",
        ),
        ({"tokenizer.ggml.model": "t5"}, "a vocabulary of kind 't5'"),
    ],
)
def test_pieces_that_make_no_vocabulary_are_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "▁"],
        "tokenizer.ggml.scores": [0.0] * 5,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1],
    }
    assert tokenizer_from_gguf(GgufFile(tmp_path, metadata, {})).encode("a") == [4, 3]
    with pytest.raises(ModelFileError, match=says):
        tokenizer_from_gguf(GgufFile(tmp_path, metadata | changes, {}))
