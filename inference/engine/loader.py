"""From a path to a running engine: the one door for whoever wants one. Knows nothing of requests or databases."""

from __future__ import annotations

from pathlib import Path

from inference.engine.engine import TorchEngine
from inference.engine.loaded_model import load_model
from inference.engine.pace import Pace


def load_engine(
    path: Path | str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    max_running: int = 32,
    max_waiting: int = 512,
    kv_tokens: int | None = None,
    kv_share: float = 1.0,
    max_loras: int = 8,
    max_lora_rank: int = 64,
    digest_cache: Path | None = None,
    compiled: Path | None = None,
    speculation: bool = True,
    pace: Pace | None = None,
) -> TorchEngine:
    """An engine for the model at `path`: a GGUF, a Hugging Face folder, or a folder with one GGUF.

    `dtype` is "fp32", "bf16", "int8" or "auto"; `device` "cpu", "cuda", or "auto", which is a GPU where one works;
    `kv_tokens` bounds the tokens of all running requests together [what fits in a quarter of the free memory, at
    most 4 GiB; on a GPU in most of its free memory], and `kv_share` leaves some of that to other engines; `max_loras`
    adapters of at most `max_lora_rank` are computed with at once, others wait for their turn; `speculation`: see
    TorchEngine; `pace`: see load_model. With the folder `compiled`, layers are compiled for the CPU in the background
    and kept there. Raises ModelLoadError.
    """
    loaded = load_model(Path(path), dtype=dtype, device=device, digest_cache=digest_cache, pace=pace)
    return TorchEngine(
        loaded,
        max_running=max_running,
        max_waiting=max_waiting,
        kv_tokens=kv_tokens,
        kv_share=kv_share,
        max_loras=max_loras,
        max_lora_rank=max_lora_rank,
        compiled=compiled,
        speculation=speculation,
    )
