"""What "auto" comes to, and why, once the model and the data are known. Knows nothing of how any of it is used."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import psutil
import torch

from inference.engine.config import ModelConfig
from inference.engine.device import resolve_device
from inference.engine.interface import ModelLoadError
from inference.engine.loaded_model import resolve_dtype
from training.trainer.classified import classified
from training.trainer.failures import TrainingFailure
from training.trainer.processes import Processes
from training.trainer.spec import MOST_LENGTH, SCRATCH_LENGTH, Spec

logger = logging.getLogger(__name__)

_BATCH = 16
# On a CPU products of 256 rows are as fast as those of more (measured) and take less memory; a GPU wants more.
_MICROBATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
# What the first step takes of each weight that is learnt: its gradient, that in the vector of all, and two moments.
_BYTES_PER_WEIGHT = 16
_CHECKPOINTS = 10
# Published recipes: an adapter takes ten times the rate of all weights, a small model more than a large one.
_RATES = {("lora", True): 5e-4, ("lora", False): 2e-4, ("full", True): 5e-5, ("full", False): 2e-5}
_SMALL = 1024  # hidden size
# Of new models: nothing can be forgotten, so they learn fast, the larger the less.
_SCRATCH_RATE = 3e-3


@dataclass(frozen=True)
class Choice:
    knob: str
    value: float | str
    why: str


class Choices:
    """Every knob as it is used; `made` are those that were left to us."""

    def __init__(self) -> None:
        self.made: list[Choice] = []

    def _chosen(self, knob: str, asked: float | str, value: float, why: str) -> float:
        if asked != "auto":
            return float(asked)
        self.made.append(Choice(knob, value, why))
        return value

    def device(self, spec: Spec, *, alone: bool = True) -> torch.device:
        """ "auto" is a GPU where one works. Of several processes each has a GPU of its own (`Processes`), and all have
        one or none: these do not try it first.

        Raises TrainingFailure `spec` where there is none of what was asked for, and `oom` where others have all of it.
        """
        if spec.device == "cpu":
            return torch.device("cpu")
        found = torch.cuda.is_available()
        if spec.device == "cuda" and not found:
            why = "This machine has no GPU that torch can use: leave `device` at auto, or say cpu."
            raise TrainingFailure("spec", why)
        if found and alone:
            try:
                resolve_device("cuda")
            except ModelLoadError as error:
                if error.__cause__ and (failure := classified(error.__cause__)):
                    raise failure from error
                if spec.device == "cuda":
                    raise TrainingFailure("spec", str(error)) from error
                logger.warning("%s Computing on the CPU.", error)
                found = False
        name = "cuda" if found else "cpu"
        if spec.device == "auto":
            self.made.append(Choice("device", name, "A GPU was found." if found else "No GPU was found."))
        return torch.device(name)

    def precision(self, spec: Spec, device: torch.device) -> str:
        if spec.precision != "auto":
            return spec.precision
        name = resolve_dtype("auto", device)
        why = "This machine multiplies bf16 in hardware." if name == "bf16" else "bf16 is not fast here."
        self.made.append(Choice("precision", name, why))
        return name

    def fsdp(self, spec: Spec, processes: int, device: torch.device) -> bool:
        """Whether weights are shared out over the processes."""
        if processes == 1 or spec.method == "lora":
            return False
        if spec.fsdp != "auto":
            return spec.fsdp
        on_gpus = device.type == "cuda"
        why = (
            "All weights are learnt on several GPUs." if on_gpus else "Without GPUs nothing is gained by it."
        )
        self.made.append(Choice("fsdp", on_gpus, why))
        return on_gpus

    def model_and_data(
        self,
        spec: Spec,
        config: ModelConfig,
        lengths: list[int],
        device: torch.device,
        precision: str,
        learnt: int,
        processes: Processes,
    ) -> None:
        """`lengths` of the examples to learn from, in tokens; `precision` as it was chosen; `learnt`: weights that this
        process steps. Every process has to ask, and all choose the same: they share out passes that each of them
        makes."""
        scratch = spec.task == "scratch"
        if scratch:
            self._chosen("vocabulary", spec.vocabulary, config.vocab_size, "By the length of the text.")
        most = SCRATCH_LENGTH if scratch else MOST_LENGTH[device.type]
        longest = max(lengths, default=1)
        length = max(min(longest, most, config.context_length), 2)
        whole = (
            "the longest example" if length == longest else f"{sum(n > length for n in lengths)} are longer"
        )
        self.max_length = int(
            self._chosen("max_length", spec.max_length, length, f"{whole}, of {len(lengths)}.")
        )
        free = processes.least(free_memory(device))
        if device.type == "cpu":  # all of them have the same
            free /= processes.world
        free = max(free - learnt * _BYTES_PER_WEIGHT, 0)
        affordable = int(free / 4 / _bytes_per_token(config, spec, precision))
        tokens = max(min(_MICROBATCH_TOKENS[device.type], affordable), min(256, self.max_length))
        self.microbatch_tokens = int(
            self._chosen(
                "microbatch_tokens", spec.microbatch_tokens, tokens, "More is no faster, or would not fit."
            )
        )
        size = min(_BATCH, max(len(lengths) // 8, 1))
        self.batch_size = int(self._chosen("batch_size", spec.batch_size, size, f"{len(lengths)} examples."))
        small = config.hidden_size <= _SMALL
        rate = _RATES[spec.method, small]
        what = "an adapter" if spec.method == "lora" else "all weights"
        why = f"For {what} of a {'small' if small else 'large'} model."
        if scratch:
            rate = _SCRATCH_RATE / math.sqrt(config.num_layers)
            why = f"For a new model of {config.num_layers} layers."
        rate = self._chosen("learning_rate", spec.learning_rate, rate, why)
        self.learning_rate = rate * spec.learning_rate_multiplier

    def steps(self, spec: Spec, steps_an_epoch: int) -> None:
        self.total_steps = spec.max_steps or max(math.ceil(spec.epochs * steps_an_epoch), 1)
        every = math.ceil(self.total_steps / _CHECKPOINTS)
        self.checkpoint_every = int(
            self._chosen(
                "checkpoint_every", spec.checkpoint_every, every, f"{self.total_steps} steps in all."
            )
        )


def free_memory(device: torch.device) -> int:
    """Bytes."""
    return (
        int(torch.cuda.mem_get_info()[0]) if device.type == "cuda" else int(psutil.virtual_memory().available)
    )


def _bytes_per_token(config: ModelConfig, spec: Spec, precision: str) -> float:
    """What a forward pass keeps of a token for the way back, about."""
    width = 2 if precision == "bf16" else 4
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    layer = 8 * config.hidden_size + 4 * heads + 5 * config.intermediate_size
    return width * layer * (1 if spec.gradient_checkpointing else config.num_layers)
