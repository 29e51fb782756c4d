"""Everything a training job needs to know, as it is read from SPEC.json. Knows nothing of how it is done.

What may be "auto" is chosen by `choices` once model and data are known, and said in metrics.jsonl with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from training.trainer.failures import TrainingFailure

Auto = Literal["auto"]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What knobs may be set to: beyond it nothing useful can come out.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0.01, 1000),
    "max_steps": (0, 10_000_000),
    "batch_size": (1, 65_536),
    "accumulation": (1, 65_536),
    "microbatch_tokens": (16, 4_194_304),
    "max_length": (8, 1_048_576),
    "validation_length": (8, 1_048_576),
    "learning_rate": (1e-8, 1.0),
    "learning_rate_multiplier": (0.01, 100),
    "warmup": (0.0, 1.0),
    "momentum": (0.0, 0.999),
    "weight_decay": (0.0, 1.0),
    "l1": (0.0, 1.0),
    "label_smoothing": (0.0, 0.9),
    "dropout": (0.0, 0.9),
    "max_grad_norm": (0.0, 1000),
    "checkpoint_every": (1, 10_000_000),
    "keep_checkpoints": (1, 100),
    "patience": (0, 1000),
    "seed": (0, 2**63 - 1),
    "threads": (0, 1024),
    "sample_tokens": (1, 1024),
    "lora.r": (1, 256),
    "lora.alpha": (0.01, 4096),
    "lora.dropout": (0.0, 0.9),
    "folds": (0, 20),
    "fold": (0, 20),
    "size": (1, 32),
    "vocabulary": (300, 65_536),
}
_MOST_PROMPTS = 16
# Where "auto" leaves off: by the kind of device; of a new model an epoch of a small corpus makes more steps so.
MOST_LENGTH = {"cpu": 1024, "cuda": 4096}
SCRATCH_LENGTH = 512
USUAL_SIZE = 4  # layers of a new model
# Knobs of how a step is computed: they change the time and the memory it takes, and what is learnt only by the order of
# its sums, and by what dropout happens to leave out.
EFFORT = ("accumulation", "microbatch_tokens", "packing", "gradient_checkpointing")


class Lora(msgspec.Struct, forbid_unknown_fields=True):
    """Low-rank adaptation as PEFT has it (arXiv:2106.09685)."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rslora: bool = False  # scaled by alpha / sqrt(r): arXiv:2312.03732
    targets: list[str] = msgspec.field(default_factory=lambda: list(MODULES))
    # All of them leave the base as it is: PEFT's names are true, "gaussian" and "orthogonal" (which needs an even r).
    initialisation: Literal["default", "gaussian", "orthogonal"] = "default"


class Spec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    base: str = ""  # the model: a GGUF or a folder; of "scratch" none
    dataset: str  # the folder of a frozen dataset
    output: str  # a folder: what is learnt, checkpoints, metrics.jsonl, status.json
    # "language" learns to write: conversations, documents, translations. "scratch" does so without a base; the others
    # judge a labelled text.
    task: Literal["language", "scratch", "classification", "regression"] = "language"
    method: Literal["lora", "full"] = "lora"  # of "scratch" always full
    lora: Lora = msgspec.field(default_factory=Lora)

    epochs: float = 3.0
    max_steps: int = 0  # 0: as many as the epochs have
    batch_size: int | Auto = "auto"  # examples a step, over all processes
    accumulation: int = 1  # forward passes a step is divided into at least
    microbatch_tokens: int | Auto = (
        "auto"  # tokens of one forward pass at most; a longer example is a pass alone
    )
    max_length: int | Auto = "auto"  # tokens of an example; what is beyond is cut off, documents are divided
    # The same of what it is judged by; "auto": as max_length. Only losses of the same tokens can be compared.
    validation_length: int | Auto = "auto"
    packing: bool = True  # several examples in one forward pass

    learning_rate: float | Auto = "auto"
    learning_rate_multiplier: float = 1.0  # of the rate above, also where that is chosen
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.03  # share of the steps
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.0
    l1: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0  # of what each block adds, where all weights are learnt; an adapter has its own
    max_grad_norm: float = 1.0  # 0: not clipped

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0  # of each process; 0: as torch finds them
    # Whether several processes share all weights out, each a part of every one. "auto": on GPUs.
    fsdp: bool | Auto = "auto"
    seed: int = 0

    checkpoint_every: int | Auto = "auto"  # steps; each time it is also evaluated and asked the prompts
    keep_checkpoints: int = 2  # beside the best one
    patience: int = 0  # evaluations without a better one before it stops; 0: never
    prompts: list[str] = []  # asked at each checkpoint
    sample_tokens: int = 64  # of each answer

    # Of classification and regression.
    class_weights: Literal["none", "balanced"] = "none"  # balanced: as if all labels were equally common
    folds: int = 0  # cross-validation: parts that the train split is divided into; 0: as it was frozen
    fold: int = 0  # which part is held back, from 1

    # Of scratch.
    size: int = USUAL_SIZE  # layers; each makes the model 64 wider
    vocabulary: int | Auto = "auto"  # tokens

    def __post_init__(self) -> None:
        if self.task == "scratch":
            self.method = "full"


def context_of(size: int) -> int:
    """Tokens that a new model of so many layers reads."""
    return min(max(256 * size, 512), 4096)


def read_spec(path: Path) -> Spec:
    """Raises TrainingFailure `spec`, which names every knob that is out of its range."""
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    except OSError as error:
        raise TrainingFailure("spec", f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise TrainingFailure("spec", f"{path.name} is not a job: {error}.") from error
    check(spec)
    places = {"dataset": "the folder of a frozen dataset", "output": "the folder to write in"}
    if spec.task != "scratch":
        places["base"] = "the model that is begun with"
    for name, what in places.items():
        if not getattr(spec, name):
            raise TrainingFailure("spec", f"{name} is missing: {what}.")
    return spec


def check(spec: Spec) -> None:
    """Raises TrainingFailure `spec`."""
    wrong = []
    for name, (low, high) in RANGES.items():
        holder, field = (spec.lora, name.removeprefix("lora.")) if name.startswith("lora.") else (spec, name)
        value = getattr(holder, field)
        if value != "auto" and not low <= value <= high:
            wrong.append(f"{name} is {value:g} and may be from {low:g} to {high:g}")
    unknown = sorted({*spec.lora.targets} - {*MODULES})
    if unknown or not spec.lora.targets:
        wrong.append(
            f"lora.targets may be any of {', '.join(MODULES)}, and not {', '.join(unknown) or 'empty'}"
        )
    if len(spec.prompts) > _MOST_PROMPTS:
        wrong.append(f"prompts are {len(spec.prompts)} and may be at most {_MOST_PROMPTS}")
    wrong += _wrong_for_task(spec)
    if wrong:
        raise TrainingFailure("spec", f"{'; '.join(wrong)}.")


def _wrong_for_task(spec: Spec) -> list[str]:
    wrong = []
    if spec.task in ("language", "scratch"):
        for name, unset in (("folds", 0), ("fold", 0), ("class_weights", "none")):
            if getattr(spec, name) != unset:
                wrong.append(f"{name} is only for classification and regression")
    elif spec.prompts:
        wrong.append(f"prompts are only for language, and what learns {spec.task} answers none")
    if spec.task == "scratch":
        if spec.base:
            wrong.append("base is for what begins with a model, and scratch begins with none")
    else:
        for name, usual in (("size", USUAL_SIZE), ("vocabulary", "auto")):
            if getattr(spec, name) != usual:
                wrong.append(f"{name} is only for scratch")
    if spec.validation_length != "auto" and spec.task not in ("language", "scratch"):
        wrong.append(
            "validation_length is only for language and scratch; what is read of a text is max_length"
        )
    if spec.dropout and spec.method == "lora":
        wrong.append("dropout is for where all weights are learnt; an adapter has lora.dropout")
    if spec.fsdp is True and spec.method == "lora":
        wrong.append("fsdp is for where all weights are learnt; an adapter is small enough for every process")
    if spec.lora.initialisation == "orthogonal" and spec.lora.r % 2:
        wrong.append(f"lora.r is {spec.lora.r} and may only be even where lora.initialisation is orthogonal")
    if spec.task == "regression":
        if spec.label_smoothing:
            wrong.append("label_smoothing is only for labels, and regression has none")
        if spec.class_weights != "none":
            wrong.append("class_weights is only for labels, and regression has none")
    if spec.folds == 1:
        wrong.append("folds is 1 and may be 0 or from 2 to 20")
    elif spec.folds and not 1 <= spec.fold <= spec.folds:
        wrong.append(f"fold is {spec.fold} and may be from 1 to {spec.folds}, the folds")
    elif spec.fold and not spec.folds:
        wrong.append("fold is only for where there are folds")
    return wrong
