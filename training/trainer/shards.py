"""Weights shared out over the processes of a job, a part of each in every one. Knows nothing of steps or data.

FSDP (arXiv:2304.11277), as torch's `fully_shard` does it: a layer's matrices are whole only while it computes, so they,
their gradients and what the optimizer keeps of them take 1/N of the memory. Gradients are summed, never averaged: what
a job divides by is the number of trained tokens of all processes. Every process has to compute as many passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import nn

from inference.engine.linear import Linear
from inference.engine.model import LlamaModel

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def share_out(model: LlamaModel, device: torch.device, *, bf16: bool) -> None:
    """In place. A layer at a time comes to `device`, so no GPU needs room for the whole.

    `bf16`: matrices are gathered in it, as autocast multiplies them; what it would keep of each until the way back
    would otherwise be whole. What is small or is read outside of layers (norms, embeddings, head) stays from a pass's
    beginning to its end.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = MixedPrecisionPolicy()
    lower = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    groups: list[list[nn.Module]] = [
        [module for module in layer.modules() if isinstance(module, Linear)] for layer in model.layers
    ]
    groups.append([model])
    for modules in groups:
        is_root = modules[0] is model
        policy = lower if bf16 and not is_root else whole
        fully_shard(modules, mesh=mesh, reshard_after_forward=not is_root, mp_policy=policy)
        first = modules[0]
        assert isinstance(first, FSDPModule)
        first.set_gradient_divide_factor(1.0)
        first.set_force_sum_reduction_for_comms(True)  # gloo has no other


def is_shared_out(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    # Of tensors only torch's DTensor has one; to import it takes a second of every job that needs none.
    return hasattr(tensor, "device_mesh")


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Of what is shared out, this process's part: the same memory. Anything else as it is."""
    return tensor.to_local().detach() if is_shared_out(tensor) else tensor


def part_of(like: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Of a whole tensor, what this process would have of it if it were shared out as `like` is."""
    if not is_shared_out(like):
        return whole
    parts = whole.chunk(dist.get_world_size())
    rank = dist.get_rank()
    return parts[rank] if rank < len(parts) else whole[:0]


def as_shard_of(like: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """A tensor that is shared out as `like` is, of which this process has `part`."""
    if not is_shared_out(like):
        return part
    return type(like).from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def gathered(tensors: dict[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Whole, on the CPU, one after the other; nothing where they are not to be kept. Every process has to ask."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.detach()
        if is_shared_out(whole):
            whole = whole.full_tensor()
        if keep:
            found[name] = whole.cpu()
    return found
