"""transformers' generate on the same prompts, in bf16. Run by the peers' Python; knows nothing of ours.

peer_transformers.py TASK.json       {"model": GGUF, "folder": PATH, "runs": [{"prompts": [[ids]], "max_tokens": N}]}

Prints [{"decode": tokens a second, "prefill": tokens a second}], one of each run: all its prompts, of one length, as
one batch, greedy, since its sampling would sort the vocabulary. Prefill is a generation of one token; decode is what
the others of a longer one take. Detokenising is not in the loop. `folder` gets the dequantised weights the first time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def dequantise(gguf: str, folder: str) -> None:
    where, name = os.path.split(gguf)
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    del model.config.quantization_config
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    model.is_quantized = False
    model.save_pretrained(folder + ".part")
    os.rename(folder + ".part", folder)


def measure(model: Any, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
    ids = torch.tensor(prompts)

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False,
        )  # fmt: skip
        return time.perf_counter() - started

    seconds(1)  # warms up
    first = seconds(1)
    rest = seconds(max_tokens) - first
    return {"decode": len(prompts) * (max_tokens - 1) / rest, "prefill": ids.numel() / first}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        task = json.load(file)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not os.path.exists(task["folder"]):
        dequantise(task["model"], task["folder"])
    model = AutoModelForCausalLM.from_pretrained(task["folder"], dtype=torch.bfloat16)
    print(json.dumps([measure(model, **run) for run in task["runs"]]))


main()
