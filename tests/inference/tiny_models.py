"""Tiny models with random weights, saved as their real counterparts are: for tests that compare with transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEXT = [
    "The quick brown fox jumps over the lazy dog, and then it sleeps until the morning comes.",
    "Ein Haus am See: 12 Zimmer, 345 Fenster. 日本語のテキスト。 🙂 naïve café",
    "def f(x):\n    return x ** 2  # squares\n\nprint(f(3))",
] * 4


@cache
def byte_level_bpe() -> tokenizers.Tokenizer:
    """A byte-level BPE of some 400 tokens, with the three special tokens of ChatML first."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    return backend


def tiny_config(**changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "vocab_size": byte_level_bpe().get_vocab_size(),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 2,
        # Far from the usual 0.02, so that the likeliest token is clearly the likeliest.
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**values | changes)


def save_model(folder: Path, config: PretrainedConfig | None = None, **options: Any) -> PreTrainedModel:
    """A whole Hugging Face folder; returns the model it holds."""
    torch.manual_seed(7)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config or tiny_config()).float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.25)
        elif name.endswith("norm.weight"):
            parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path, template: str | None = CHATML) -> None:
    byte_level_bpe().save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    config["bos_token"] = "<|endoftext|>"
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_gguf(
    path: Path,
    kind: gguf.GGMLQuantizationType,
    *,
    architecture: str = "llama",
    metadata: dict[str, str] | None = None,
    pre: str = "smollm",
    raw: bool = False,
    rope_factor: float | None = None,
) -> None:
    """A GGUF of one layer, its matrices quantised; with `raw`, out of random blocks of that type."""
    random = np.random.default_rng(3)
    vocabulary = byte_level_bpe().get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = json.loads(byte_level_bpe().to_str())["model"]["merges"]
    hidden, inner = 256, 256
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    matrices = {
        "token_embd": (len(tokens), hidden),
        "output": (len(tokens), hidden),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (hidden // 2, hidden),
        "blk.0.attn_v": (hidden // 2, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    }
    for name, shape in matrices.items():
        values = random.normal(scale=0.2, size=shape).astype(np.float32)
        if raw:
            block, width = gguf.GGML_QUANT_SIZES[kind]
            stored = random.integers(0, 256, size=(shape[0], shape[1] // block * width), dtype=np.uint8)
            # The exponents of half-precision scales stay small, so that every number is finite.
            stored.reshape(shape[0], -1, width)[:, :, [1, 3, -1]] &= 0x3B
        else:
            stored = gguf.quantize(values, kind)
        plain = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=None if kind in plain else kind)
    if rope_factor is not None:
        writer.add_tensor("rope_freqs.weight", np.full(32, rope_factor, dtype=np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", random.uniform(0.5, 1.5, hidden).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
