"""llama.cpp on the same prompts, at its best. Run by the peers' Python; knows nothing of ours.

peer_llamacpp.py TASK.json       {"model": GGUF, "runs": [{"prompts": [[ids]], "max_tokens": N}]}

Prints [{"decode": tokens a second, "prefill": tokens a second}], one of each run: all its prompts at once through the
low-level batch interface. In the timed loops: llama_decode with the logits of every sequence copied out. Not in them:
sampling and detokenising (the tokens are made up), which is in its favour.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import llama_cpp as llama

_BATCH = 512


def batch_of(entries: list[tuple[int, int, int, bool]]) -> Any:
    """A llama_batch of (token, position, sequence, whether its logits are wanted)."""
    batch = llama.llama_batch_init(len(entries), 0, 1)
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    return batch


def seconds(context: Any, batches: list[Any]) -> float:
    started = time.perf_counter()
    for batch in batches:
        if llama.llama_decode(context, batch):
            sys.exit("llama_decode failed.")
    llama.llama_synchronize(context)
    taken = time.perf_counter() - started
    for batch in batches:
        llama.llama_batch_free(batch)
    return taken


def measure(model: Any, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
    count = len(prompts)
    cores = len(os.sched_getaffinity(0))
    settings = llama.llama_context_default_params()
    longest = max(map(len, prompts)) + max_tokens
    settings.n_ctx = count * (longest + -longest % 256)
    settings.n_batch = settings.n_ubatch = _BATCH
    settings.n_seq_max = count
    settings.n_threads = settings.n_threads_batch = cores
    context = llama.llama_init_from_model(model, settings)
    entries = [
        (token, at, number, at == len(prompt) - 1)
        for number, prompt in enumerate(prompts)
        for at, token in enumerate(prompt)
    ]

    def prefill() -> float:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        starts = range(0, len(entries), _BATCH)
        return seconds(context, [batch_of(entries[start : start + _BATCH]) for start in starts])

    prefill()  # warms up
    took = prefill()
    decoding = 0.0
    for step in range(max_tokens - 1):
        batch = batch_of([(200 + step, len(prompts[n]) + step, n, True) for n in range(count)])
        decoding += seconds(context, [batch])
    llama.llama_free(context)
    return {"decode": count * (max_tokens - 1) / decoding, "prefill": len(entries) / took}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        task = json.load(file)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(task["model"].encode(), llama.llama_model_default_params())
    print(json.dumps([measure(model, **run) for run in task["runs"]]))


main()
