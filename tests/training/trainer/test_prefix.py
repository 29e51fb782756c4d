"""What all examples of a pass begin with is computed once, and nothing is learnt otherwise for it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.training.trainer.conftest import conversation, freeze
from tests.training.trainer.test_arithmetic import CPU, assert_close, gradients, learner_of, split_of
from training.datasets.examples import ChatExample, DocumentExample, Message
from training.trainer.attention import PackedAttention
from training.trainer.data import packed
from training.trainer.prefix import sharing_prefix

SYSTEM = Message("system", "the quick brown fox jumps over the lazy dog")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations that all begin with the same words."""
    chats = [ChatExample([SYSTEM, *conversation(n).messages]) for n in range(8)]
    return freeze(tmp_path_factory.mktemp("alike") / "frozen", "chat", train=chats)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_of_each_example_alone(
    method: str, recomputed: bool, tiny_base: Path, alike: Path
) -> None:
    learner = learner_of(tiny_base, alike, method=method, gradient_checkpointing=recomputed)
    if learner.adapter is not None:
        with torch.no_grad():
            for parameter in learner.adapter.b.values():
                torch.nn.init.normal_(parameter, std=0.05)
    split = split_of(learner, alike)
    spans = split.spans(1024)
    together = sharing_prefix(split.batch(spans, CPU))
    assert together.prefix == split.alike(spans) > 20
    assert len(together.ids) == sum(span.length for span in spans) - 7 * together.prefix
    assert_close(gradients(learner, split, [spans]), gradients(learner, split, [[span] for span in spans]))


def test_every_row_that_is_learnt_from_is_its_own_example_s(tiny_base: Path, alike: Path) -> None:
    learner = learner_of(tiny_base, alike)
    split = split_of(learner, alike)
    spans = split.spans(1024)[:1] * 3
    batch, together = split.batch(spans, CPU), sharing_prefix(split.batch(spans, CPU))
    assert together.rows.unique().numel() == batch.rows.numel()
    assert torch.equal(together.ids[together.rows], batch.ids[batch.rows])
    assert torch.equal(together.positions[together.rows], batch.positions[batch.rows])


def test_a_pass_holds_as_many_tokens_as_asked_for_with_the_prefix_once(tiny_base: Path, alike: Path) -> None:
    learner = learner_of(tiny_base, alike)
    split = split_of(learner, alike)
    spans = split.spans(1024)
    prefix = split.alike(spans)
    assert prefix == sharing_prefix(split.batch(spans, CPU)).prefix
    most = prefix + 60
    passes = packed(spans, most, 1, alike=prefix)
    assert sorted(span.line for some in passes for span in some) == list(range(1, 9))
    computed = [len(sharing_prefix(split.batch(some, CPU)).ids) for some in passes]
    assert len(passes) < len(packed(spans, most, 1))
    assert all(tokens <= most for tokens, some in zip(computed, passes, strict=True) if len(some) > 1)


def test_documents_and_an_example_alone_share_nothing(tiny_base: Path, alike: Path, tmp_path: Path) -> None:
    learner = learner_of(tiny_base, alike)
    same = freeze(tmp_path / "d", "document", train=[DocumentExample(SYSTEM.content)] * 3)
    documents, chats = split_of(learner, same), split_of(learner, alike)
    for batch in (
        documents.batch(documents.spans(1024), CPU),
        chats.batch(chats.spans(1024)[:1], CPU),
    ):
        assert sharing_prefix(batch) is batch


@pytest.mark.parametrize("lengths", [[7], [3, 9, 1, 12, 11, 8], [400, 390, 2]])
@pytest.mark.parametrize("window", [None, 4, 20])
def test_every_sequence_attends_to_the_prefix_and_to_itself(lengths: list[int], window: int | None) -> None:
    torch.manual_seed(0)
    prefix = 10
    tokens = prefix + sum(lengths)
    qkv = [torch.randn(tokens, heads, 8, requires_grad=True) for heads in (6, 2, 2)]
    gradient = torch.randn(tokens, 6, 8)
    ends = list(itertools.accumulate(lengths, initial=prefix))
    wanted = []
    for start, end in [(prefix, prefix), *itertools.pairwise(ends)]:
        rows = [*range(prefix), *range(start, end)]
        q, k, v = (x[rows].transpose(0, 1) for x in qkv)
        keys, values = (x.repeat_interleave(3, dim=0) for x in (k, v))
        seen = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
        seen = seen if window is None else seen.triu(1 - window)
        alone = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen).transpose(0, 1)
        wanted.append(alone if start == end else alone[prefix:])
    ours, theirs = PackedAttention(lengths, (window,), CPU, prefix)(0, *qkv), torch.cat(wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(ours, qkv, gradient), torch.autograd.grad(theirs, qkv, gradient), strict=True
    )
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
