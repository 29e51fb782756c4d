"""Losses and gradients are those of transformers and PEFT, however the examples are packed, divided or shared out."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, MistralConfig, PretrainedConfig

from tests.inference.tiny_models import save_model, tiny_config
from training.datasets.examples import DocumentExample, TranslationExample
from training.datasets.frozen import read_split
from training.encoding import Encoder
from training.trainer.attention import PackedAttention
from training.trainer.data import Order, Span, TokenizedSplit, chunks, packed, shared
from training.trainer.learner import Learner
from training.trainer.loss import summed_cross_entropy
from training.trainer.objective import objective_of
from training.trainer.spec import Lora, Spec

CPU = torch.device("cpu")


def learner_of(base: Path, chats: Path, *, fsdp: bool = False, **changes: object) -> Learner:
    values = {"base": str(base), "dataset": str(chats), "output": "", "precision": "fp32"} | changes
    spec = Spec(**values)  # type: ignore[arg-type]
    return Learner(spec, objective_of(spec, lambda: None), str(values["precision"]), CPU, fsdp=fsdp)


def split_of(learner: Learner, folder: Path) -> TokenizedSplit:
    encoder = Encoder(learner.loaded.tokenizer, learner.loaded.template)
    return TokenizedSplit().filled(enumerate(read_split(folder, "train"), 1), encoder, lambda: None)


def gradients(learner: Learner, split: TokenizedSplit, passes: list[list[Span]]) -> dict[str, torch.Tensor]:
    for parameter in learner.parameters.values():
        parameter.grad = None
    trained = sum(span.trained for spans in passes for span in spans)
    for spans in passes:
        (learner.summed_loss(split.batch(spans, CPU), training=True) / trained).backward()
    return {n: p.grad.clone() for n, p in learner.parameters.items() if p.grad is not None}


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(float(value.norm()) for value in theirs.values())
    for name, value in theirs.items():
        assert float((ours[name] - value).norm()) <= 1e-5 * scale, name


# --- Against others ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("rslora", [False, True])
def test_loss_and_gradients_of_an_adapter_are_those_of_peft(
    tiny_base: Path, chats: Path, tmp_path: Path, rslora: bool
) -> None:
    learner = learner_of(tiny_base, chats, lora=Lora(r=4, alpha=8, rslora=rslora))
    assert learner.adapter is not None
    with torch.no_grad():
        for parameter in learner.adapter.b.values():
            torch.nn.init.normal_(parameter, std=0.05)
    for name, data in learner.served_files(1024).items():
        (tmp_path / name).write_bytes(data)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True)
    split = split_of(learner, chats)
    spans = split.spans(1024)[:5]
    loss = torch.zeros(())
    for span in spans:
        batch = split.batch([span], CPU)
        logits = theirs(batch.ids.unsqueeze(0)).logits[0]
        loss = loss + F.cross_entropy(logits[batch.rows], batch.targets, reduction="sum")
        with torch.no_grad():  # the same logits, from what was saved
            attend = PackedAttention(batch.lengths, learner.loaded.config.layer_windows, CPU)
            hidden = learner.loaded.model(batch.ids, batch.positions, attend, learner.adapter)
            torch.testing.assert_close(learner.loaded.model.logits(hidden), logits, rtol=1e-4, atol=1e-4)
    (loss / sum(span.trained for span in spans)).backward()
    found = {}
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            layer, module, factor = parts[4], parts[6], parts[7].removeprefix("lora_").lower()
            found[f"{factor}.{layer}_{module}"] = parameter.grad
    ours = learner.summed_loss(split.batch(spans, CPU), training=True)
    assert float(ours) == pytest.approx(float(loss), rel=1e-5)
    assert_close(gradients(learner, split, [spans]), found)


@pytest.mark.parametrize("kind", ["tied", "untied with biases", "window"])
def test_loss_and_gradients_of_all_weights_are_those_of_transformers(
    kind: str, chats: Path, tmp_path: Path
) -> None:
    # transformers takes no gradient of the embedding of a padding token, and this vocabulary pads with its end token.
    config: PretrainedConfig = tiny_config(
        num_hidden_layers=2, tie_word_embeddings=kind == "tied", pad_token_id=None
    )
    if kind == "untied with biases":
        config.attention_bias = config.mlp_bias = True
    if kind == "window":
        config = MistralConfig(**(config.to_dict() | {"sliding_window": 6, "head_dim": 8}))
    save_model(tmp_path, config)
    learner = learner_of(tmp_path, chats, method="full")
    split = split_of(learner, chats)
    spans = split.spans(1024)[:4]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").float()
    loss = torch.zeros(())
    for span in spans:
        batch = split.batch([span], CPU)
        logits = theirs(batch.ids.unsqueeze(0)).logits[0]
        loss = loss + F.cross_entropy(logits[batch.rows], batch.targets, reduction="sum")
    assert float(learner.summed_loss(split.batch(spans, CPU), training=True)) == pytest.approx(
        float(loss), rel=1e-5
    )
    (loss / sum(span.trained for span in spans)).backward()
    found = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = gradients(learner, split, [spans])
    qkv = torch.cat([found[f"model.layers.1.self_attn.{n}_proj.weight"] for n in "qkv"])
    pairs = {
        "embed_tokens": found["model.embed_tokens.weight"],
        "layers.1.qkv_proj.weight": qkv,
        "layers.0.down_proj.weight": found["model.layers.0.mlp.down_proj.weight"],
        "layers.0.input_layernorm.weight": found["model.layers.0.input_layernorm.weight"],
        "norm.weight": found["model.norm.weight"],
    }
    if kind == "untied with biases":
        pairs["layers.0.o_proj.bias"] = found["model.layers.0.self_attn.o_proj.bias"]
        pairs["lm_head.weight"] = found["lm_head.weight"]
    assert_close({name: ours[name] for name in pairs}, pairs)


def test_label_smoothing_is_that_of_torch_and_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(0, 50, (300,))
    for smoothing in (0.0, 0.2):
        wanted = F.cross_entropy(hidden @ weight.t(), targets, reduction="sum", label_smoothing=smoothing)
        theirs = torch.autograd.grad(wanted / 7, [hidden, weight])
        ours = summed_cross_entropy(hidden, weight, targets, smoothing)
        assert float(ours) == pytest.approx(float(wanted), rel=1e-6)
        for mine, other in zip(torch.autograd.grad(ours / 7, [hidden, weight]), theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


# --- However they are put together ------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["lora", "full"])
def test_packing_and_accumulation_change_no_gradient(method: str, tiny_base: Path, chats: Path) -> None:
    learner = learner_of(tiny_base, chats, method=method)
    split = split_of(learner, chats)
    spans = split.spans(1024)[:8]
    alone = gradients(learner, split, packed(spans, 1024, 1, packing=False))
    for passes in (
        packed(spans, 1024, 1),
        packed(spans, 64, 1),
        packed(spans, 1024, 8),
        packed(spans, 16, 1),
    ):
        assert sorted(s.line for spans in passes for s in spans) == sorted(s.line for s in spans)
        assert_close(gradients(learner, split, passes), alone)


@pytest.mark.parametrize("lengths", [[7], [5, 5], [3, 9, 1, 12, 11, 8], [400, 390, 2]])
@pytest.mark.parametrize("window", [None, 4])
def test_every_sequence_attends_to_itself_alone(lengths: list[int], window: int | None) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    qkv = [torch.randn(tokens, heads, 8, requires_grad=True) for heads in (6, 2, 2)]
    gradient = torch.randn(tokens, 6, 8)
    wanted = []
    for q, k, v in zip(*(x.split(lengths) for x in qkv), strict=True):
        keys, values = (x.repeat_interleave(3, dim=1).transpose(0, 1) for x in (k, v))
        seen = torch.ones(len(q), len(q), dtype=torch.bool).tril()
        seen = seen if window is None else seen.triu(1 - window)
        alone = F.scaled_dot_product_attention(q.transpose(0, 1), keys, values, attn_mask=seen)
        wanted.append(alone.transpose(0, 1))
    ours, theirs = PackedAttention(lengths, (window,), CPU)(0, *qkv), torch.cat(wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(ours, qkv, gradient), torch.autograd.grad(theirs, qkv, gradient), strict=True
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_recomputing_layers_changes_no_gradient(tiny_base: Path, chats: Path) -> None:
    kept = learner_of(tiny_base, chats, lora=Lora(dropout=0.3))
    again = learner_of(tiny_base, chats, lora=Lora(dropout=0.3), gradient_checkpointing=True)
    split = split_of(kept, chats)
    found = []
    for learner in (kept, again):
        torch.manual_seed(1)
        found.append(gradients(learner, split, [split.spans(1024)[:3]]))
    assert_close(found[1], found[0])


def test_the_loss_of_bf16_is_nearly_that_of_fp32(tiny_base: Path, chats: Path) -> None:
    for method in ("lora", "full"):
        losses = []
        for precision in ("fp32", "bf16"):
            learner = learner_of(tiny_base, chats, method=method, precision=precision)
            split = split_of(learner, chats)
            losses.append(float(learner.summed_loss(split.batch(split.spans(1024)[:8], CPU), training=True)))
            assert all(p.dtype == torch.float32 for p in learner.parameters.values())
        assert losses[1] == pytest.approx(losses[0], rel=0.01)


# --- What is in a step -------------------------------------------------------------------------------------------
def spans_of(lengths: list[int]) -> list[Span]:
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    return [Span(s, s + n, n - 1, i) for i, (s, n) in enumerate(zip(starts, lengths, strict=True))]


def test_passes_are_filled_by_best_fit_and_an_example_that_is_too_long_is_a_pass_alone() -> None:
    passes = packed(spans_of([7, 5, 3, 30, 4, 1]), 10, 1)
    assert [[span.length for span in spans] for spans in passes] == [[30], [7, 3], [5, 4, 1]]


def test_processes_get_about_the_same_number_of_tokens() -> None:
    shares = shared([[span] for span in spans_of([9, 1, 5, 4, 8, 2])], 2)
    assert [sum(s.length for one in share for s in one) for share in shares] == [15, 14]


def test_every_example_comes_once_an_epoch_in_another_order_each_time_and_the_same_for_a_seed() -> None:
    spans = spans_of([3] * 10)
    order = Order(spans, 4, seed=1)
    assert order.steps_an_epoch == 3
    epochs = [[s.line for step in range(3) for s in order.step(3 * epoch + step)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [s.line for s in Order(spans, 4, seed=1).step(4)] == epochs[1][4:8]
    assert [s.line for s in Order(spans, 4, seed=2).step(0)] != epochs[0][:4]


def test_all_of_the_validation_split_is_read() -> None:
    spans = spans_of([3, 90, 5, 7, 2])
    found = list(chunks(spans, 10))
    assert sorted(s.line for some in found for s in some) == [0, 1, 2, 3, 4]
    assert all(len(some) == 1 or sum(s.length for s in some) <= 10 for some in found)


def test_documents_are_divided_and_longer_conversations_cut(
    tiny_base: Path, tmp_path: Path, chats: Path
) -> None:
    from tests.training.trainer.conftest import freeze

    learner = learner_of(tiny_base, chats)
    text = "the quick brown fox jumps over the lazy dog " * 9
    documents = split_of(learner, freeze(tmp_path / "d", "document", train=[DocumentExample(text)]))
    (length,) = documents.lengths
    pieces = documents.spans(16)
    assert [(piece.start, piece.end) for piece in pieces] == [
        (start, min(start + 16, length)) for start in range(0, length - 1, 16)
    ]
    assert all(piece.trained == piece.length - 1 for piece in pieces)
    conversations = split_of(learner, chats)
    assert max(conversations.lengths) > 20
    assert max(span.length for span in conversations.spans(20)) == 20
    translations = split_of(
        learner, freeze(tmp_path / "t", "translation", train=[TranslationExample("eins", "one")] * 2)
    )
    assert translations.spans(1024)[0].trained == len(learner.loaded.tokenizer.encode("one")) + 1
