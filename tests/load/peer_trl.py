"""TRL's SFTTrainer with PEFT's LoRA on the same conversations. Run by the peers' Python; knows nothing of ours.

peer_trl.py TASK.json    {"model": GGUF, "folder": PATH, "train": [[messages]], "validation": [[messages]],
                          "arguments": {of SFTConfig}, "lora": {of LoraConfig}}

Prints {"tokens": trained in one epoch, "seconds": of the training loop, "base": nats, "loss": nats, "bytes": at most
resident}; losses are those of the validation tokens, each counted once. `folder` holds the dequantised weights, which
peer_transformers.py makes. TRL's defaults but for what the arguments say; the model's own template, with marks that say
what is learnt.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

_WRITTEN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
_MARKED = (
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}"
    "{{'\n'}}"
)


def tokenizer_of(gguf: str) -> Any:
    where, name = os.path.split(gguf)
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    assert _WRITTEN in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(_WRITTEN, _MARKED)
    return tokenizer


@torch.no_grad()
def validation_loss(trainer: Any) -> float:
    """The trainer's own evaluation is a mean of its batches' means."""
    total, count = 0.0, 0
    trainer.model.eval()
    for example in trainer.eval_dataset:
        batch = trainer.data_collator([example])
        learnt = batch["labels"][0, 1:] != -100
        with trainer.compute_loss_context_manager():
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            loss = trainer.model(**inputs, labels=batch["labels"]).loss
        total += float(loss) * int(learnt.sum())
        count += int(learnt.sum())
    return total / count


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        task = json.load(file)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as output:
        # As it is published; the folder's copy of it is in fp32.
        as_published = {"dtype": "bfloat16"}
        trainer = SFTTrainer(
            task["folder"],
            args=SFTConfig(
                output, model_init_kwargs=as_published, use_cpu=True, save_strategy="no", report_to="none",
                assistant_only_loss=True, **task["arguments"],
            ),
            train_dataset=Dataset.from_dict({"messages": task["train"]}),
            eval_dataset=Dataset.from_dict({"messages": task["validation"]}),
            processing_class=tokenizer_of(task["model"]),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **task["lora"]),
        )  # fmt: skip
        base = validation_loss(trainer)
        seconds = trainer.train().metrics["train_runtime"]
        figures = {
            "tokens": sum(
                label != -100 for labels in trainer.train_dataset["labels"] for label in labels[1:]
            ),
            "seconds": seconds,
            "base": base,
            "loss": validation_loss(trainer),
            "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    print(json.dumps(figures))


main()
