"""A new vocabulary, learnt from texts: sentencepiece's BPE with a fallback to bytes. Knows no models or datasets.

The same texts give the same bytes: one thread, nothing drawn by chance, and of too many lines every nth.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
import tokenizers
from tokenizers import decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from training.trainer.failures import TrainingFailure

BOS, EOS = "<s>", "</s>"
TURNS = ("<|im_start|>", "<|im_end|>")  # their ids come after <unk>, BOS and EOS: from 3 on
_BYTES = 256
_LEAST_TEXT = 10_000  # bytes; of less there is nothing a vocabulary, let alone a model, could be learnt from
_LEAST_MERGES = 32
_MOST_READ = (
    16 * 2**20
)  # characters; more changes a vocabulary hardly, and takes long while nothing can be stopped
_LONGEST = 1000  # characters of a line: sentencepiece passes over those beyond about 4000 bytes
_BYTES_A_TOKEN = 256
_SMALLEST, _LARGEST = 512, 32_768
_COVERAGE = 0.9995  # of characters that are tokens; rarer ones are written in bytes


def train_vocabulary(texts: Iterable[str], size: int | None, *, turns: bool) -> bytes:
    """A tokenizer.model; `size` None: by the length of the texts; `turns`: with TURNS.

    Raises TrainingFailure `data` where the texts are too few for one, and `spec` for a size they have no room for.
    """
    lines, length = _sample(texts)
    if length < _LEAST_TEXT:
        raise TrainingFailure(
            "data",
            f"A new model needs at least {_LEAST_TEXT} bytes of text to learn from, and the training split has "
            f"{length}.",
        )
    needed = _BYTES + 3 + len(TURNS) * turns + _covered(lines)
    wanted = size or max(_usual_size(length), needed + _SMALLEST - _BYTES)
    if wanted < needed + _LEAST_MERGES:
        raise TrainingFailure(
            "spec", f"vocabulary is {wanted}, and this text needs at least {needed + _LEAST_MERGES}."
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=wanted,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=_COVERAGE,
        # Text comes back as it went in: line breaks as bytes, runs of spaces as tokens.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        split_digits=True,
        control_symbols=[*TURNS] if turns else [],
        num_threads=1,
        minloglevel=2,
    )
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).GetPieceSize()
    if found < needed + _LEAST_MERGES:
        raise TrainingFailure(
            "data", "The training split says so little that no vocabulary can be learnt from it."
        )
    if size is not None and found < size:
        raise TrainingFailure("spec", f"vocabulary is {size}, and this text has room for {found} at most.")
    return model.getvalue()


def tokenizer_json(model: bytes) -> bytes:
    """The same vocabulary for the `tokenizers` library, so that whoever has that one needs no other.

    sentencepiece keeps no merges: two pieces merge into a third, and the one with the better score comes first.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    names: list[str] = [pieces.IdToPiece(id) for id in range(pieces.GetPieceSize())]
    ids = {name: id for id, name in enumerate(names)}
    plain = [
        id
        for id in range(len(names))
        if not (pieces.IsControl(id) or pieces.IsByte(id) or pieces.IsUnknown(id))
    ]
    known = {names[id] for id in plain}
    merges = [
        (name[:cut], name[cut:])
        for name in sorted((names[id] for id in plain), key=lambda name: -pieces.GetScore(ids[name]))
        for cut in range(1, len(name))
        if name[:cut] in known and name[cut:] in known
    ]
    backend = tokenizers.Tokenizer(
        BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False)  # noqa: S106
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = [names[id] for id in range(len(names)) if pieces.IsControl(id)]
    backend.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in control]
    )
    backend.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return backend.to_str().encode()


def _sample(texts: Iterable[str]) -> tuple[list[str], int]:
    """Lines to learn from, evenly of all, and how many bytes all of them are."""
    lines: list[str] = []
    stride, kept, length = 1, 0, 0
    for number, line in enumerate(_lines(texts)):
        length += len(line.encode("utf-8", errors="replace"))
        if number % stride:
            continue
        lines.append(line)
        kept += len(line)
        if kept > _MOST_READ:
            lines, stride = lines[::2], stride * 2
            kept = sum(map(len, lines))
    return lines, length


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        # What is no UTF-8, and what sentencepiece passes over whole lines for: neither is worth a token.
        text = text.encode("utf-8", errors="replace").decode().replace("\0", "").replace("\u2581", " ")
        for line in text.split("\n"):
            if line.strip():
                yield from (line[start : start + _LONGEST] for start in range(0, len(line), _LONGEST))


def _usual_size(length: int) -> int:
    size = 2 ** round(math.log2(length / _BYTES_A_TOKEN))
    return min(max(size, _SMALLEST), _LARGEST)


def _covered(lines: list[str]) -> int:
    """Characters that will be tokens."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    left = sum(counts.values()) * _COVERAGE
    for number, (_, count) in enumerate(counts.most_common(), 1):
        left -= count
        if left <= 0:
            return number
    return len(counts)
