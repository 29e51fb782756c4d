"""What a checkpoint knows beside tensors, and of which job it is one."""

from __future__ import annotations

import hashlib

import msgspec

from training.trainer.spec import Spec

# Of a state: where all of it is the same, what follows is what would have followed, to the last digit.
DIGITS = ("world", "threads", "torch", "precision", "fsdp", "device", "max_length")


class TrainingState(msgspec.Struct):
    """What a checkpoint knows beside tensors."""

    step: int  # steps that are done
    job: str  # of what this is a checkpoint: spec, model and data
    world: int
    threads: int
    torch: str
    precision: str
    microbatch_tokens: int  # "auto" goes by the memory that is free, and another number sums in another order
    seed: int  # all randomness is a function of it and of the step
    fsdp: bool = False  # whether weights were shared out; they are whole here
    device: str = ""  # "cpu" or "cuda"; states from before it was kept have neither this nor the length
    max_length: int = 0  # "auto" goes by the device, and documents are divided by it into other examples
    best_step: int = 0
    best_loss: float | None = None
    base_loss: float | None = None
    judged: int = 0  # the last step that was evaluated
    worse: int = 0  # evaluations since the best one


def identity(spec: Spec, dataset_hash: str, model_digest: str, device: str = "auto") -> str:
    """SHA-256 of what decides the numbers: not of how they are shown or kept, nor of the machine.

    Jobs begun before the device was left out of it have the one that was named in theirs.
    """
    spec = msgspec.structs.replace(
        spec,
        base="",
        dataset="",
        output="",
        device=device,
        threads=0,
        keep_checkpoints=1,
        prompts=[],
        sample_tokens=1,
    )
    decisive = msgspec.to_builtins(spec)
    if spec.learning_rate_multiplier == 1:
        del decisive["learning_rate_multiplier"]  # jobs begun before there was one go on
    if spec.validation_length == "auto":
        del decisive["validation_length"]
    del decisive["fsdp"]
    parts = [msgspec.json.encode(decisive), dataset_hash.encode(), model_digest.encode()]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()
