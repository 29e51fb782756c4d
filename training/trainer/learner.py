"""A model and what of it is learnt: all weights, or an adapter beside them, and the head of a classifier.

Knows nothing of steps or data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from inference.engine.interface import ModelLoadError
from inference.engine.loaded_model import LoadedModel, load_model
from inference.engine.model import Adapt, Attend, Layer, QKNorm, Turns
from inference.formats.classifier_card import SCORE
from training.trainer.attention import PackedAttention
from training.trainer.checkpoints import Content
from training.trainer.data import Batch
from training.trainer.dropout import ResidualDropout
from training.trainer.failures import TrainingFailure
from training.trainer.giving_way import Watched
from training.trainer.lora import LoraAdapter
from training.trainer.model_files import model_files
from training.trainer.objective import Objective
from training.trainer.peft_files import adapter_files, restore_adapter
from training.trainer.prefix import sharing_prefix
from training.trainer.shards import gathered, own_part, part_of, share_out
from training.trainer.spec import Spec
from training.trainer.tensor_files import pieces, stored


class Learner:
    """`parameters` are what is learnt, by name, in fp32 whatever the precision of the arithmetic."""

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        precision: str,
        device: torch.device,
        *,
        fsdp: bool = False,
        look: Callable[[], None] | None = None,
    ) -> None:
        """`fsdp`: its weights are shared out over the processes. `look` is called at each layer, and what it raises
        ends the pass. Raises TrainingFailure `model`."""
        self._spec, self._objective, self._precision, self._device = spec, objective, precision, device
        self._look = look
        self.shares_prefixes = device.type == "cpu"  # a GPU's kernels are faster where sequences are whole
        # All weights are learnt in fp32, where small steps add up; an adapter's base does not change.
        kind = "fp32" if spec.method == "full" else precision
        try:
            self.loaded: LoadedModel = load_model(Path(spec.base), dtype=kind, trainable=True)
        except ModelLoadError as error:
            raise TrainingFailure("model", str(error)) from error
        self._model = self.loaded.model
        self.adapter: LoraAdapter | None = None
        if spec.method == "lora":
            self.adapter = LoraAdapter(self.loaded.config, spec.lora, spec.seed).to(device)
            learnt: nn.Module = self.adapter
        else:
            learnt = self._model
            learnt.requires_grad_(True)
            for module in learnt.modules():
                if isinstance(module, QKNorm):  # one row for all heads is stored, and each has its own here
                    module.requires_grad_(False)
        self.score: nn.Parameter | None = None
        if objective.outputs:
            if not self.loaded.config.tie_word_embeddings:
                self._model.lm_head.requires_grad_(False)
            # Small, so it is never shared out.
            self.score = nn.Parameter(self._first_score(objective.outputs).to(device))
        if fsdp:
            share_out(self._model, device, bf16=precision == "bf16")
        else:
            self._model.to(device)
        self.parameters = {name: p for name, p in learnt.named_parameters() if p.requires_grad}
        if self.score is not None:
            self.parameters[SCORE] = self.score

    def summed_loss(self, batch: Batch, *, training: bool) -> torch.Tensor:
        """fp64: over all that is learnt of the batch; smoothed only in training."""
        if self.adapter is not None:
            self.adapter.train(training)
        config = self.loaded.config
        adapt: Adapt | None = self.adapter
        if training and self._spec.dropout:
            adapt = ResidualDropout(self._spec.dropout)
        if self.shares_prefixes:
            batch = sharing_prefix(batch)
        attend: Attend = PackedAttention(batch.lengths, config.layer_windows, self._device, batch.prefix)
        if self._look is not None:
            attend = Watched(attend, self._look)

        def again(layer: Layer, x: torch.Tensor, turns: Turns) -> torch.Tensor:
            out: torch.Tensor = checkpoint(layer, x, turns, attend, adapt, use_reentrant=False)
            return out

        run = again if training and self._spec.gradient_checkpointing else None
        mixed = self.adapter is None and self._precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=mixed):
            hidden = self._model(batch.ids, batch.positions, attend, adapt, run)
        hidden = hidden[batch.rows]
        if mixed:
            hidden = hidden.to(torch.bfloat16)
        head = self._model.lm_head.weight if self.score is None else self.score
        return self._objective.summed_loss(hidden, head, batch.targets, training=training)

    def _first_score(self, outputs: int) -> torch.Tensor:
        """As transformers begins one: normal, with a deviation of 0.02."""
        random = torch.Generator().manual_seed(self._spec.seed)
        return torch.empty(outputs, self.loaded.config.hidden_size).normal_(std=0.02, generator=random)

    def checkpoint_files(self, *, keep: bool = True) -> dict[str, Content]:
        """What `restore` reads: an adapter as it is served, or all weights as they are learnt, to be written at once.

        Of weights that are shared out every process has to ask; who does not `keep` them gets nothing.
        """
        if self.adapter is not None:
            return {**self._adapter_files(self.adapter)}
        weights = gathered(dict(self.parameters), keep=keep)
        return {"weights.safetensors": pieces(weights)} if keep else {}

    def _adapter_files(self, adapter: LoraAdapter) -> dict[str, bytes]:
        return adapter_files(adapter, self._spec.lora, Path(self._spec.base).name, self.score)

    def restore(self, folder: Path) -> None:
        if self.adapter is not None:
            restore_adapter(self.adapter, (folder / "adapter_model.safetensors").read_bytes(), self.score)
            return
        with torch.no_grad():
            for name, whole in stored(folder / "weights.safetensors"):
                own_part(self.parameters[name]).copy_(part_of(self.parameters[name], whole))

    def served_files(self, max_length: int) -> dict[str, bytes]:
        """What was learnt, as it is loaded to be served: an adapter, or a whole model."""
        if self.adapter is not None:
            files = self._adapter_files(self.adapter)
        else:
            dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
            base, output = Path(self._spec.base), Path(self._spec.output)
            files = model_files(self._model, base, dtype, output, self.score)
        return self._objective.described(files, max_length, self.loaded.digest)
