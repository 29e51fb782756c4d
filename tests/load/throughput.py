"""Decode and prefill against llama.cpp and transformers: the same prompts, as many tokens, by turns."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

from inference.engine.benchmark import prompts
from inference.formats.gguf_file import read_gguf
from inference.formats.model_files import find_model
from inference.text.gguf_vocabulary import tokenizer_from_gguf
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.peers import LLAMACPP, TRANSFORMERS, Peer, Unavailable, json_of
from tests.load.token_log import processor_seconds

_BATCHES = (1, 8, 16, 32)
_PREFILL_AT = 16  # at once
_PROMPT_TOKENS, _MAX_TOKENS = 64, 128
_ROUNDS = 3
# Asked for; where nothing is, not to be slower.
_TARGETS = {
    "engine.decode.1.llamacpp": 0.65,
    "engine.decode.16.llamacpp": 1.6,
    "engine.decode.32.llamacpp": 2.1,
    "engine.decode.16.transformers": 1.8,
    "engine.prefill.llamacpp": 4.5,
    "engine.prefill.int8.llamacpp": 4.5,
    "engine.lookup.1.llamacpp": 1.2,
}

Figures = dict[int, dict[str, float]]  # by batch: decode, prefill, and of ours also outside


def demo_gguf() -> Path:
    found = find_model(demo_model()).gguf
    assert found is not None
    return found


def ours(batches: tuple[int, ...] = _BATCHES, dtype: str = "auto") -> Figures:
    """What the engine's own benchmark says, with every default but the precision."""
    figures = json_of(
        "The engine",
        [
            sys.executable, "-m", "inference.engine", "bench", "--json", "--model", str(demo_model()),
            "--dtype", dtype, "--batch", ",".join(map(str, batches)),
            "--prompt-tokens", str(_PROMPT_TOKENS), "--max-tokens", str(_MAX_TOKENS),
        ],
    )  # fmt: skip
    return {int(batch): found for batch, found in figures["batches"].items()}


def theirs(peer: Peer) -> Figures:
    gguf = demo_gguf()
    encode = tokenizer_from_gguf(read_gguf(gguf)).encode
    ids = [encode(text) for text in prompts(encode, max(_BATCHES), _PROMPT_TOKENS)]
    runs = [{"prompts": ids[:batch], "max_tokens": _MAX_TOKENS} for batch in _BATCHES]
    folder = settings.MODEL_CACHE / "dequantised" / gguf.stem
    folder.parent.mkdir(exist_ok=True)
    return dict(zip(_BATCHES, peer.measure(model=str(gguf), folder=str(folder), runs=runs), strict=True))


@cache
def _measured() -> tuple[Figures, Figures, dict[str, Figures | Unavailable]]:
    """Ours, ours in int8 with prompts, and the peers': medians of rounds in which all take turns, so that what slows
    the machine slows all of them."""
    of_ours: list[Figures] = []
    in_int8: list[Figures] = []
    of_peers: dict[str, Any] = {peer.name: [] for peer in (LLAMACPP, TRANSFORMERS)}
    for _ in range(_ROUNDS):
        of_ours.append(ours())
        _say("ours", of_ours[-1])
        in_int8.append(ours((_PREFILL_AT,), "int8"))
        _say("ours, int8", in_int8[-1])
        for peer in (LLAMACPP, TRANSFORMERS):
            if isinstance(of_peers[peer.name], list):
                try:
                    of_peers[peer.name].append(theirs(peer))
                    _say(peer.name, of_peers[peer.name][-1])
                except Unavailable as error:
                    of_peers[peer.name] = error
    return (
        _medians(of_ours),
        _medians(in_int8),
        {name: _medians(found) if isinstance(found, list) else found for name, found in of_peers.items()},
    )


def _say(name: str, figures: Figures) -> None:
    rates = " ".join(f"{batch}: {found['decode']:.1f}" for batch, found in figures.items())
    print(f"    {name:12} decode {rates}, prefill {figures[_PREFILL_AT]['prefill']:.0f}", flush=True)


def _medians(rounds: list[Figures]) -> Figures:
    return {
        batch: {key: statistics.median(one[batch][key] for one in rounds) for key in found}
        for batch, found in rounds[0].items()
    }


def compare(name: str, mine: float, peer: float | Unavailable) -> Row:
    target = _TARGETS.get(name, 1.0)
    if isinstance(peer, Unavailable):
        return Row.without_peer(name, mine, str(peer), "tokens/s", target)
    return Row.at_least(name, mine, peer, "tokens/s", target)


def decode() -> Iterator[Row]:
    of_ours, _, of_peers = _measured()
    for peer, found in of_peers.items():
        for batch in _BATCHES:
            rate = found if isinstance(found, Unavailable) else found[batch]["decode"]
            yield compare(f"engine.decode.{batch}.{peer}", of_ours[batch]["decode"], rate)


def prefill() -> Iterator[Row]:
    of_ours, in_int8, of_peers = _measured()
    for peer, found in of_peers.items():
        rate = found if isinstance(found, Unavailable) else found[_PREFILL_AT]["prefill"]
        yield compare(f"engine.prefill.{peer}", of_ours[_PREFILL_AT]["prefill"], rate)
        yield compare(f"engine.prefill.int8.{peer}", in_int8[_PREFILL_AT]["prefill"], rate)


def overhead() -> Iterator[Row]:
    """Of a step with sixteen at once, what is not the model: scheduler, sampler, detokeniser; and with the token log,
    too, whose writing takes processor time beside the steps."""
    of_ours, _, _ = _measured()
    outside, step = of_ours[16]["outside"] * 100, 16 / of_ours[16]["decode"]
    yield Row.at_most("engine.overhead.16", outside, 12, "% of a step")
    log = processor_seconds(16, step) / step * 100
    yield Row.at_most("engine.overhead.16.log", outside + log, 12, "% of a step")
