"""The path of a GPU, as far as it can be walked without one: tensors that only know where they would be, recordings
that run again what they recorded, and a kernel that does what its documentation says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from inference.engine import cuda_graphs, device, flash_attention
from inference.engine.adapters import LoadedAdapter, read_adapter
from inference.engine.attention import PagedAttention, Span
from inference.engine.cuda_graphs import DecodeGraphs
from inference.engine.device import resolve_device
from inference.engine.engine import TorchEngine
from inference.engine.flash_attention import FlashAttention
from inference.engine.interface import ModelLoadError, Pooling, Request, StepOutput
from inference.engine.kv_cache import KVCache
from inference.engine.loaded_model import LoadedModel, load_model
from inference.engine.loader import load_engine
from inference.engine.model import LlamaModel
from inference.parameters import Regex, SamplingParams
from tests.inference.engine.running import DEVICES, ask, run
from tests.inference.lora_adapters import save_adapter

GPU = torch.device("cuda", 0)


def run_again(work: Callable[[], None]) -> Callable[[], None]:
    """A recording of what has no kernels to record."""
    work()
    return work


class _NoTensors:
    """Tensors on a GPU without numbers."""

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, device=GPU)

    def rope_factors(self) -> torch.Tensor | None:
        return None


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def adapters(
    loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[torch.dtype, list[LoadedAdapter]]:
    root = tmp_path_factory.mktemp("adapters")
    folders = [save_adapter(root / str(seed), loaded.config, seed=seed, r=4) for seed in range(2)]
    return {
        dtype: [read_adapter(folder, loaded.config, dtype, 64) for folder in folders]
        for dtype in (torch.float32, torch.bfloat16)
    }


def _get_item(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, torch.Tensor) for part in parts):
        indexed: torch.Tensor = torch.ops.aten.index(tensor, [*parts])
        return indexed
    dim = 0
    for part in parts:
        if isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        tensor = (
            tensor.unsqueeze(dim)
            if part is None
            else torch.ops.aten.slice(tensor, dim, part.start, part.stop)
        )
        dim += 1
    return tensor


def _set_item(tensor: torch.Tensor, index: Any, value: Any) -> None:
    if isinstance(index, torch.Tensor):
        torch.ops.aten.index_put_(tensor, [index], value)
    elif isinstance(value, torch.Tensor):
        torch.ops.aten.copy_(_get_item(tensor, index), value)
    else:
        _get_item(tensor, index).fill_(value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """Everything in here is imagined to be on a GPU: a tensor on another device fails the operation, a question
    after its numbers too, unless it is `tolist`, which answers zeros and is noted."""
    shapes: list[torch.Size] = []
    recording = False

    def zeros(tensor: torch.Tensor) -> list[Any]:
        assert tensor.device == GPU
        shapes.append(tensor.shape)
        return np.zeros(tensor.shape, dtype=int).tolist()

    def copied(tensor: torch.Tensor, to: torch.device) -> torch.Tensor:
        assert tensor.device.type == "cpu"
        assert not recording, "what is copied now would be copied again and again"
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=to)

    def record(work: Callable[[], None]) -> Callable[[], None]:
        nonlocal recording
        recording = True
        work()
        recording = False
        return work

    monkeypatch.setattr(device, "_copied", copied)
    monkeypatch.setattr(FakeTensor, "tolist", zeros)
    # What Python's bindings would set the device for themselves, which takes one; as operators it does not.
    for name, operator in {
        "__getitem__": _get_item,
        "__setitem__": _set_item,
        "__invert__": lambda tensor: torch.ops.aten.bitwise_not(tensor),
        "copy_": lambda tensor, source: torch.ops.aten.copy_(tensor, source),
        "contiguous": lambda tensor: torch.ops.aten.clone(tensor, memory_format=torch.contiguous_format),
    }.items():
        monkeypatch.setattr(FakeTensor, name, operator)
    monkeypatch.setattr(cuda_graphs, "CudaRecorder", lambda: record)
    monkeypatch.setattr(flash_attention, "multiplies_bf16", lambda device: True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield shapes


def _engine(loaded: LoadedModel, kind: str) -> TorchEngine:
    model = LlamaModel(loaded.config, _NoTensors(), kind, [1, 2, 3])
    return TorchEngine(dataclasses.replace(loaded, model=model, dtype=kind), kv_tokens=2048)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_a_step_has_all_its_tensors_on_the_gpu_and_asks_for_nothing_but_its_tokens(
    kind: str,
    loaded: LoadedModel,
    adapters: dict[torch.dtype, list[LoadedAdapter]],
    asked: list[torch.Size],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = _engine(loaded, kind)
    for n, adapter in enumerate(adapters[gpu._model.dtype]):
        gpu.add_adapter(str(n), adapter)
    samplings: list[dict[str, Any]] = [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0},
        {"temperature": 0},
        {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2, "logit_bias": {5: 1.0}},
    ]
    for n, values in enumerate(samplings):
        sampling = SamplingParams(max_tokens=10 + 5 * n, ignore_eos=True, **values)
        request = Request(
            id=str(n),
            prompt_token_ids=[3 + n] * (5 + 20 * n),
            sampling=sampling,
            adapter=str(n) if n < 2 else "",
        )
        gpu.submit(request)
    answered = 0
    while gpu.has_work:
        asked.clear()
        outputs = gpu.step()
        assert not caplog.records
        assert len(asked) == bool(outputs)
        answered += sum(len(output.token_ids) for output in outputs)
    assert answered == 10 + 15 + 20 + 25
    assert gpu.graphs is not None
    # The two without adapters, when the others are gone.
    assert 2 in {rows for rows, _ in gpu.graphs.recorded}


def test_who_asks_for_more_than_tokens_gets_it_from_the_gpu(
    loaded: LoadedModel,
    asked: list[torch.Size],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeTensor, "__bool__", lambda tensor: True)
    gpu = _engine(loaded, "bf16")
    wanted: list[dict[str, Any]] = [
        {"sampling": SamplingParams(max_tokens=5, ignore_eos=True, logprobs=2, prompt_logprobs=1)},
        {"sampling": SamplingParams(max_tokens=5, response_format=Regex("(abc)+"))},
        {"pooling": Pooling(kind="mean", normalize=True)},
    ]
    for n, values in enumerate(wanted):
        gpu.submit(Request(id=str(n), prompt_token_ids=[3] * 20, **values))
    done: dict[str, StepOutput] = {}
    while gpu.has_work:
        done |= {output.request_id: output for output in gpu.step() if output.finish_reason}
    assert not caplog.records
    assert [done[str(n)].finish_reason for n in range(3)] == ["length", "error", "length"]
    # Zeros are no answer that the expression allows.
    assert "response_format" in done["1"].error
    gpu._cache.clear([1, 2])


@pytest.mark.parametrize("device", DEVICES)
def test_recorded_steps_give_the_words_of_others(device: str, tiny_folder: Path) -> None:
    plain = load_engine(tiny_folder, dtype="fp32", device=device)
    plain.graphs = None
    recorded = load_engine(tiny_folder, dtype="fp32", device=device)
    record = run_again if device == "cpu" else None
    graphs = recorded.graphs = DecodeGraphs(recorded._model, recorded._cache, 32, record)
    prompts = ["The", "The quick brown fox", "12345 and " * 60, "a b c a b c a b", "def f(x):"]
    requests = [
        ask(prompt, id=str(n), sampling=SamplingParams(temperature=0, max_tokens=20 + 9 * n, ignore_eos=True))
        for n, prompt in enumerate(prompts)
    ]
    for asked in (requests, requests[2:3], requests[3:4]):
        assert [answer.token_ids for answer in run(recorded, *asked)] == [
            answer.token_ids for answer in run(plain, *asked)
        ]
    # One long sequence among short ones would have the short ones gather its length: such steps are not recorded.
    assert {rows for rows, _ in graphs.recorded} >= {1, 2, 4}
    assert {width for _, width in graphs.recorded} >= {16, 32}
    assert plain.lookup_use == recorded.lookup_use


def test_what_cannot_be_recorded_is_computed_as_it_is(
    tiny_folder: Path, engine: TorchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """And steps of other sizes are recorded all the same."""
    refused = 0

    def fails_at_first(work: Callable[[], None]) -> Callable[[], None]:
        nonlocal refused
        work()
        refused += 1
        if refused == 1:
            raise torch.OutOfMemoryError("no room")
        return work

    asked = ask("The quick brown fox")
    expected = run(engine, asked)
    other = load_engine(tiny_folder, dtype="fp32", device="cpu")
    graphs = other.graphs = DecodeGraphs(other._model, other._cache, 32, fails_at_first)
    assert run(other, asked) == expected
    assert [*graphs.recorded.values()] == [None]
    assert run(other, asked, ask("The quick brown fox", id="two", cache_salt="two"))[:1] == expected
    assert any(graphs.recorded.values())
    assert [record.message for record in caplog.records] == [
        "Steps of 1 rows are not recorded, and slower for it: no room"
    ]


def _varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
) -> torch.Tensor:
    """What torch's documentation says of the kernel: one sequence after the other, with a window to the left and right
    of where a query stands, the last query at the last key."""
    assert enable_gqa
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    out = torch.full_like(query, float("nan"))
    left, right = (size if size >= 0 else 10**6 for size in window_size)
    group = query.shape[1] // key.shape[1]
    for n, (first, end) in enumerate(itertools.pairwise(cu_seq_q.tolist())):
        used, start = int(seqused_k[n]), int(cu_seq_k[n])
        assert end - first <= max_q
        assert used <= min(max_k, int(cu_seq_k[n + 1]) - start)
        keys, values = (t[start : start + used].repeat_interleave(group, dim=1) for t in (key, value))
        at = torch.arange(end - first).unsqueeze(1) + used - (end - first)
        ahead = torch.arange(used) - at
        scores = torch.einsum("qhd,khd->hqk", query[first:end], keys) * query.shape[2] ** -0.5
        scores = scores.masked_fill((ahead > right) | (ahead < -left), float("-inf"))
        out[first:end] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values)
    return out


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("window", [None, 3, 40])
def test_the_kernel_is_told_what_each_token_attends_to(
    window: int | None, where: str, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "cpu":
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", _varlen_attn)
    to = torch.device(where)
    dtype, tolerance = (torch.float32, 1e-5) if where == "cpu" else (torch.bfloat16, 0.02)
    config = dataclasses.replace(loaded.config, layer_windows=(window,) * loaded.config.num_layers)
    random = torch.Generator().manual_seed(3)
    mixed = [Span(0, 5, [3]), Span(70, 1, [1, 9, 4, 7, 2]), Span(20, 30, [5, 11, 6, 8]), Span(0, 1, [10])]
    single = [Span(70, 1, [1, 9, 4, 7, 2]), Span(0, 1, [10]), Span(31, 1, [5, 11])]
    for spans in (mixed, single):
        caches = [KVCache(config, 192, dtype, device=to) for _ in range(3)]
        stored = torch.randn(caches[0].layers[0].shape, generator=random)
        for cache in caches:
            cache.layers[0].copy_(stored)

        def some(heads: int, tokens: int = sum(span.count for span in spans)) -> torch.Tensor:
            return torch.randn(tokens, heads, config.head_dim, generator=random).to(to, dtype)

        query, key, value = some(config.num_heads), some(config.num_kv_heads), some(config.num_kv_heads)
        attends: list[Any] = [PagedAttention(caches[0], spans), FlashAttention.over(caches[1], spans)]
        if spans is single:
            positions, slots = attends[1].positions, attends[1].slots
            tables = torch.tensor([(span.block_table + [0] * 8)[:8] for span in spans], device=to)
            attends.append(FlashAttention.of_single_tokens(caches[2], positions, slots, tables))
        found = [attend(0, query, key, value) for attend in attends]
        for attend, others in zip(attends[1:], found[1:], strict=True):
            torch.testing.assert_close(others, found[0], atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(attend.cache.layers[0], caches[0].layers[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_a_gpu_that_is_not_there_is_an_error_and_auto_takes_the_cpu(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="There is no GPU to compute on: torch"):
        load_engine(tiny_folder, device="cuda")
    assert resolve_device("auto").type == "cpu"


def test_an_unknown_device_is_an_error(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="'tpu' is not one of auto, cpu, cuda"):
        load_engine(tiny_folder, device="tpu")


def test_a_gpu_that_does_not_work_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nand more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    assert resolve_device("auto").type == "cpu"
    assert caplog.records[0].message.endswith("used: CUDA error: no kernel image is available")
    with pytest.raises(ModelLoadError, match="no kernel image is available"):
        resolve_device("cuda")
