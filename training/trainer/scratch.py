"""The model a job from scratch begins with: a vocabulary of its own text, and weights drawn from the seed.

It is a folder like any base model, `initial` in the output, written once and found again by a job that goes on.
Knows nothing of steps. A size is a number of layers; everything else follows from it (see Shape).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save

from training.datasets.examples import ChatExample, DocumentExample, Example, TranslationExample
from training.datasets.frozen import read_manifest, read_split
from training.trainer.checkpoints import is_whole, write_folder
from training.trainer.failures import TrainingFailure
from training.trainer.spec import Spec, context_of
from training.trainer.vocabulary import BOS, EOS, TURNS, tokenizer_json, train_vocabulary

INITIAL = "initial"  # the folder's name
_KEY = "begun.json"  # of what the folder is the beginning
_HEAD = 64
_DEVIATION = 0.02
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A head of 64 and a width of 64 for every layer: 4 layers are 256 wide, 8 are 512, 12 are 768 as GPT-2's are."""

    layers: int

    @property
    def width(self) -> int:
        return _HEAD * self.layers

    @property
    def inner(self) -> int:
        """8/3 of the width, as Llama's: as many weights as a feed-forward of four widths without a gate."""
        return math.ceil(self.width * 8 / 3 / _HEAD) * _HEAD

    @property
    def context(self) -> int:
        return context_of(self.layers)


def initial_model(spec: Spec, beat: Callable[[], None]) -> None:
    """Writes the folder, if it is not there. `beat` is called often, and may raise.

    Raises TrainingFailure `data` and `spec`, and DataError where the dataset is broken.
    """
    folder = Path(spec.output) / INITIAL
    manifest = read_manifest(Path(spec.dataset))
    key = json.dumps([manifest.content_hash, spec.size, spec.vocabulary, spec.seed]).encode()
    if is_whole(folder) and (folder / _KEY).read_bytes() == key:
        return
    is_chat = manifest.kind == "chat"
    size = None if spec.vocabulary == "auto" else spec.vocabulary
    vocabulary = train_vocabulary(_texts(Path(spec.dataset), beat), size, turns=is_chat)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary).GetPieceSize()
    files = {
        "tokenizer.model": vocabulary,
        "tokenizer.json": tokenizer_json(vocabulary),
        _KEY: key,
    }
    files |= {
        name: json.dumps(values, indent=1).encode() for name, values in _described(spec, pieces, is_chat)
    }
    if is_chat:
        files["chat_template.jinja"] = _TEMPLATE.encode()
    files["model.safetensors"] = save(_weights(Shape(spec.size), pieces, spec.seed), {"format": "pt"})
    write_folder(folder, files)


def _texts(dataset: Path, beat: Callable[[], None]) -> Iterator[str]:
    for example in read_split(dataset, "train"):
        yield from _texts_of(example)
        beat()


def _texts_of(example: Example) -> list[str]:
    match example:
        case ChatExample():
            return [message.content for message in example.messages]
        case DocumentExample():
            return [example.text]
        case TranslationExample():
            return [example.source, example.target]
    raise TrainingFailure(
        "data", "A new model learns from documents, conversations or translations, and from nothing else."
    )


def _described(spec: Spec, pieces: int, is_chat: bool) -> list[tuple[str, dict[str, Any]]]:
    """config.json and its like."""
    shape = Shape(spec.size)
    ends = [2, 4] if is_chat else [2]
    control = dict(enumerate([BOS, EOS, *(TURNS if is_chat else ())], 1))
    token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": pieces,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.layers,
        "num_key_value_heads": shape.layers,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "initializer_range": _DEVIATION,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": ends,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": "<unk>",
        "model_max_length": shape.context,
        "added_tokens_decoder": {str(id): {"content": content, **token} for id, content in control.items()},
    }
    return [
        ("config.json", config),
        ("generation_config.json", {"bos_token_id": 1, "eos_token_id": ends}),
        ("tokenizer_config.json", tokenizer),
    ]


def _weights(shape: Shape, pieces: int, seed: int) -> dict[str, torch.Tensor]:
    """Normal with a deviation of 0.02; what is added to the stream by 1 / sqrt(2 layers) less, as GPT-2 begins."""
    random = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, deviation: float = _DEVIATION) -> torch.Tensor:
        return torch.empty(rows, columns).normal_(std=deviation, generator=random)

    width, inner = shape.width, shape.inner
    added = _DEVIATION / math.sqrt(2 * shape.layers)
    weights = {"model.embed_tokens.weight": normal(pieces, width), "model.norm.weight": torch.ones(width)}
    for layer in range(shape.layers):
        weights |= {
            f"model.layers.{layer}.{name}": tensor
            for name, tensor in {
                "input_layernorm.weight": torch.ones(width),
                "post_attention_layernorm.weight": torch.ones(width),
                "self_attn.q_proj.weight": normal(width, width),
                "self_attn.k_proj.weight": normal(width, width),
                "self_attn.v_proj.weight": normal(width, width),
                "self_attn.o_proj.weight": normal(width, width, added),
                "mlp.gate_proj.weight": normal(inner, width),
                "mlp.up_proj.weight": normal(inner, width),
                "mlp.down_proj.weight": normal(width, inner, added),
            }.items()
        }
    return weights
