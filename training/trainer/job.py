"""One training job from its spec to what it leaves behind. Knows nothing of who started it.

A step's examples are a function of (seed, step), its dropout of (seed, step, pass), and its loss is the sum over all
trained tokens divided by their number: so packing, accumulation and the number of processes change nothing but the
order of sums, and a job that goes on from a checkpoint computes what it would have computed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from inference.engine import allocator
from training.datasets.frozen import read_manifest
from training.datasets.problems import DataError
from training.encoding import Encoder
from training.trainer.checkpoints import Checkpoints, write_file, write_folder
from training.trainer.choices import Choices
from training.trainer.classifier import Classifier
from training.trainer.classifier import load as load_classifier
from training.trainer.data import Order, Span, TokenizedSplit, chunks, packed, shared
from training.trainer.evaluation import headline
from training.trainer.failures import Stopped, TrainingFailure
from training.trainer.giving_way import Learning
from training.trainer.learner import Learner
from training.trainer.objective import objective_of
from training.trainer.optimisation import Optimizer, rate_at
from training.trainer.orphans import Parent
from training.trainer.processes import Processes
from training.trainer.record import Record
from training.trainer.samples import Samples
from training.trainer.scratch import INITIAL, initial_model
from training.trainer.shards import gathered, own_part
from training.trainer.spec import Spec
from training.trainer.state import DIGITS, TrainingState, identity
from training.trainer.tensor_files import pieces, stored
from training.trainer.unigram import unigram_entropy

logger = logging.getLogger(__name__)
# Refused examples that are named; the rest are counted.
_NAMED = 20
_LINES = 8  # of a step whose loss is not finite
_ALL_BEYOND = (
    "There is nothing to learn from: all that would be learnt comes after the first {0} tokens of an example, and no "
    "more is read. Raise max_length, or shorten the examples."
)


class _Interrupted(Exception):
    """Told to stop: the step that is under way counts for nothing."""


class Job:
    def __init__(
        self,
        spec: Spec,
        processes: Processes,
        choices: Choices,
        device: torch.device,
        learning: Learning | None = None,
    ) -> None:
        self._spec, self._processes, self._choices, self._device = spec, processes, choices, device
        self._learning = learning
        self._output = Path(spec.output)
        self.record = Record(self._output, writes=processes.is_first)
        self._stop, self._parent = False, Parent()
        self._broken: list[Span] = []  # of the pass whose loss was not finite
        self._eta = 0.0  # seconds
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop_soon)

    def _stop_soon(self, *_: Any) -> None:
        self._stop = True
        self._parent.limit_if_gone()

    def _look(self) -> None:
        if self._stop and self._processes.world == 1:  # others may be at another layer
            raise _Interrupted

    def run(self) -> None:
        """Raises Stopped and TrainingFailure."""
        spec, record = self._spec, self.record
        record.state("loading")
        with _broken_dataset_told():
            self._objective = objective_of(spec, self._beat)
            if spec.task == "scratch":
                self._spec = spec = self._with_initial_model()
        self._precision = self._choices.precision(spec, self._device)
        self._fsdp = self._choices.fsdp(spec, self._processes.world, self._device)
        self._learner = Learner(
            spec, self._objective, self._precision, self._device, fsdp=self._fsdp, look=self._look
        )
        record.state("reading")
        with _broken_dataset_told():
            self._read()
        self._optimizer = Optimizer(
            self._learner.parameters, spec, self._choices.learning_rate, self._processes
        )
        self._checkpoints = Checkpoints(self._output / "checkpoints", spec.keep_checkpoints)
        self._state = self._begin()
        for choice in self._choices.made:
            record.line("chosen", knob=choice.knob, value=choice.value, why=choice.why)
        record.state("training", step=self._state.step, steps=self._choices.total_steps)
        self._samples = self._first_samples()
        try:
            if self._learning:
                self._learning.run(self._learn)
            else:
                self._learn()
        except _Interrupted:
            self._optimizer.forget()
            if self._state.step:
                self._write_checkpoint()
            raise Stopped from None

    def _learn(self) -> None:
        if self._state.step == 0:
            self._state.base_loss = self._evaluate()
            self._ask(None)
        self._train()
        with self.record.doing("finishing"):
            self._finish()

    def _with_initial_model(self) -> Spec:
        if self._processes.is_first:
            initial_model(self._spec, self._beat)
        self._processes.wait()
        return msgspec.structs.replace(self._spec, base=str(self._output / INITIAL))

    # --- Data -------------------------------------------------------------------------------------------------
    def _read(self) -> None:
        spec, loaded = self._spec, self._learner.loaded
        encoder = Encoder(loaded.tokenizer, loaded.template, loaded.end_token_ids)
        self._dataset_hash = read_manifest(Path(spec.dataset)).content_hash
        self._train_split = self._objective.read("train", encoder, self._beat)
        self._validation_split = self._objective.read("validation", encoder, self._beat)
        refused = self._train_split.refused
        for line, why in refused[:_NAMED]:
            self.record.line("refused", split="train", line=line, why=why)
        lengths = self._train_split.lengths
        learnt = sum(own_part(p).numel() for p in self._learner.parameters.values())
        self._choices.model_and_data(
            spec, loaded.config, lengths, self._device, self._precision, learnt, self._processes
        )
        longest, context = self._choices.max_length, loaded.config.context_length
        judged = longest if spec.validation_length == "auto" else spec.validation_length
        for name, length in (("max_length", longest), ("validation_length", judged)):
            if length > context:
                raise TrainingFailure("spec", f"{name} may be at most {context}, what the model can read.")
        spans = self._train_split.spans(longest)
        beyond = self._train_split.beyond(longest)
        if beyond and not spans:
            raise TrainingFailure("data", _ALL_BEYOND.format(longest))
        if not spans:
            why = f" The first one was refused: {refused[0][1]}" if refused else ""
            raise TrainingFailure(
                "data", f"There is nothing to learn from: no example has a token that is trained.{why}"
            )
        self._order = Order(spans, self._choices.batch_size, spec.seed)
        self._choices.steps(spec, self._order.steps_an_epoch)
        self._validation = self._validation_split.spans(judged)
        self.record.line(
            "data",
            examples=len(spans),
            refused=len(refused),
            beyond=beyond,
            max_length=longest,
            device=self._device.type,
            tokens=sum(span.length for span in spans),
            trained_tokens=sum(span.trained for span in spans),
            validation_examples=len(self._validation),
            validation_trained_tokens=sum(span.trained for span in self._validation),
            **self._unigram(spans),
        )

    def _unigram(self, spans: list[Span]) -> dict[str, float]:
        """What a model from scratch has to be better than."""
        if self._spec.task != "scratch":
            return {}
        train = (self._train_split, spans)
        judged = (self._validation_split, self._validation) if self._validation else train
        return {"unigram_entropy": unigram_entropy(train, judged, self._learner.loaded.config.vocab_size)}

    def _beat(self) -> None:
        """Where nothing is lost by stopping at once."""
        self.record.beat()
        if self._stop and self._processes.world == 1:
            raise Stopped

    # --- Beginning and going on -------------------------------------------------------------------------------
    def _begin(self) -> TrainingState:
        """A new job's state, or the last checkpoint's with everything put back."""
        spec = self._spec
        identities = {
            device: identity(spec, self._dataset_hash, self._learner.loaded.digest, device)
            for device in ("auto", "cpu", "cuda")
        }
        fresh = TrainingState(
            step=0,
            job=identities["auto"],
            world=self._processes.world,
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),
            precision=self._precision,
            microbatch_tokens=self._choices.microbatch_tokens,
            seed=spec.seed,
            fsdp=self._fsdp,
            device=self._device.type,
            max_length=self._choices.max_length,
        )
        folder = self._checkpoints.last()
        self._processes.wait()
        if folder is None:
            return fresh
        state = msgspec.json.decode((folder / "state.json").read_bytes(), type=TrainingState)
        if state.job not in identities.values():
            raise TrainingFailure(
                "checkpoint",
                "The output folder holds checkpoints of another model, dataset or spec; name another.",
            )
        if state.max_length not in (0, fresh.max_length):
            raise TrainingFailure(
                "checkpoint",
                f"The checkpoints are of examples of up to {state.max_length} tokens, and here up to "
                f"{fresh.max_length} would be read. Go on where it began: with a GPU, or without one.",
            )
        self._learner.restore(folder)
        self._optimizer.restore(stored(folder / "optimizer.safetensors"))
        here = {name: getattr(fresh, name) for name in DIGITS}
        exact = all(getattr(state, name) == value for name, value in here.items())
        self.record.line("resumed", step=state.step, exact=exact)
        self._choices.microbatch_tokens = state.microbatch_tokens
        return msgspec.structs.replace(state, job=fresh.job, **here)

    def _save(self) -> None:
        if self._learning:
            self._learning.hand_over(self._write_checkpoint)
        else:
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        with self.record.doing("saving"):
            self._write_files()

    def _write_files(self) -> None:
        first = self._processes.is_first
        if first or self._fsdp:  # what is shared out is gathered from all
            files = self._learner.checkpoint_files(keep=first)
            state = gathered(self._optimizer.state(), keep=first)
        if first:
            files["optimizer.safetensors"] = pieces(state)
            files["state.json"] = msgspec.json.encode(self._state)
            self._checkpoints.write(self._state.step, files, self._state.best_step, self.record.beat)
            self.record.line("checkpoint", step=self._state.step)
        self._processes.wait()

    # --- Learning ---------------------------------------------------------------------------------------------
    def _train(self) -> None:
        state, steps = self._state, self._choices.total_steps
        began, first = time.monotonic(), state.step
        while True:
            # A state that does not say its length may be beyond what are the steps of this one.
            ended = state.step >= steps
            due = ended or (state.step > 0 and state.step % self._choices.checkpoint_every == 0)
            if due and state.judged != state.step:
                self._judge(self._evaluate())
                self._save()
                self._ask(self._checkpoints.path(state.step))
                allocator.give_back()  # passes are of all sizes, and what one freed fits no other
            if ended:
                return
            if 0 < self._spec.patience <= state.worse:
                self.record.line("stopped_early", step=state.step, best_step=state.best_step)
                return
            self._step()
            self.record.status.step = state.step
            elapsed = time.monotonic() - began
            self._eta = elapsed / (state.step - first) * (steps - state.step)

    def _step(self) -> None:
        state, spec, choices = self._state, self._spec, self._choices
        began = time.monotonic()
        spans = self._order.step(state.step)
        trained = sum(span.trained for span in spans)
        alike = self._train_split.alike(spans) if self._learner.shares_prefixes else 0
        passes = packed(
            spans, choices.microbatch_tokens, spec.accumulation, packing=spec.packing, alike=alike
        )
        shares = shared(passes, self._processes.world)
        mine = shares[self._processes.rank]
        loss = 0.0
        for number in range(max(map(len, shares))):
            if self._processes.any(self._stop):
                raise _Interrupted
            if number < len(mine):
                loss += self._go_through(mine[number], trained, passes.index(mine[number]))
            elif self._fsdp:
                self._accompany(self._train_split, spans, training=True)
            self.record.beat()
        gradients = self._optimizer.gradients()
        loss = self._processes.total(loss) / trained
        rate = rate_at(state.step, choices.total_steps, spec, choices.learning_rate)
        finite = math.isfinite(loss) and bool(gradients.isfinite().all())
        if self._processes.any(not finite):
            broken = self._processes.all_of([span.line for span in self._broken], _LINES + 1)
            raise self._not_finite(broken or [span.line for span in spans])
        norm = self._optimizer.step(gradients, rate)
        state.step += 1
        seconds = time.monotonic() - began
        self.record.line(
            "step",
            step=state.step,
            epoch=state.step / self._order.steps_an_epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(span.length for span in spans),
            trained_tokens=trained,
            tokens_per_second=trained / seconds,
            seconds=seconds,
            memory=_peak_memory(self._device),
            eta=self._eta,
        )

    def _go_through(self, spans: list[Span], trained: int, number: int) -> float:
        """The gradients of one pass, added to those before; answers its summed loss."""
        # Dropout is the same whichever process computes the pass, and whenever.
        torch.manual_seed(hash((self._spec.seed, self._state.step, number)))
        batch = self._train_split.batch(spans, self._device)
        loss = self._learner.summed_loss(batch, training=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._broken = spans  # said once all processes have heard of it
        (loss / trained).backward()
        return value

    def _accompany(self, split: TokenizedSplit, spans: list[Span], *, training: bool) -> None:
        """A pass that counts for nothing: the others wait for this process's part of every layer."""
        shortest = min(spans, key=lambda span: (span.length, span.start))
        loss = self._learner.summed_loss(split.batch([shortest], self._device), training=training)
        if training:
            (loss * 0.0).backward()

    def _not_finite(self, numbers: list[int]) -> TrainingFailure:
        lines = ", ".join(map(str, numbers[:_LINES])) + (", ..." if len(numbers) > _LINES else "")
        return TrainingFailure(
            "nan",
            f"The loss of step {self._state.step + 1} is not finite; it read lines {lines} of "
            "train.jsonl. Lower the learning rate, or look at these lines.",
        )

    # --- Judging ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _evaluate(self) -> float | None:
        """The mean loss of a trained token of the validation split; None where there is none."""
        if not self._validation:
            return None
        with self.record.doing("evaluating"):
            loss = self._validation_loss()
        self.record.line("validation", step=self._state.step, loss=loss)
        return loss

    def _validation_loss(self) -> float:
        total = 0.0
        passes = list(chunks(self._validation, self._choices.microbatch_tokens))
        world, rank = self._processes.world, self._processes.rank
        for start in range(0, len(passes), world):
            if self._processes.any(self._stop):
                raise _Interrupted
            if start + rank < len(passes):
                batch = self._validation_split.batch(passes[start + rank], self._device)
                total += float(self._learner.summed_loss(batch, training=False).detach())
            elif self._fsdp:
                self._accompany(self._validation_split, passes[0], training=False)
            self.record.beat()
        return self._processes.total(total) / sum(span.trained for span in self._validation)

    def _judge(self, loss: float | None) -> None:
        """Notes how this step did. Without a validation split the last is the best."""
        state = self._state
        better = loss is None or (math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss))
        if better:
            state.best_step, state.best_loss, state.worse = state.step, loss, 0
        else:
            state.worse += 1
        state.judged = state.step
        self.record.state(
            "training",
            best_step=state.best_step,
            best_validation_loss=state.best_loss,
            base_validation_loss=state.base_loss,
        )

    def _first_samples(self) -> Samples | None:
        spec = self._spec
        if not (spec.prompts and self._processes.is_first):
            return None
        if self._fsdp:
            if self._state.step == 0:
                why = "No process has all of the weights that are learnt."
                self.record.line("sample_failed", step=0, why=why)
            return None
        return Samples(self._learner.loaded, spec.prompts, spec.sample_tokens, spec.lora.r)

    def _ask(self, checkpoint: Path | None) -> None:
        if self._samples is not None:
            adapter = checkpoint if self._spec.method == "lora" else None
            with self.record.doing("asking"):
                self._samples.ask(self.record, self._state.step, adapter, lambda: self._stop)

    def _finish(self) -> None:
        """What is left behind is the best checkpoint's, and it is judged as it is read back from there."""
        state = self._state
        if not state.best_step:
            raise TrainingFailure(
                "nan",
                "The validation loss was never finite. Lower the learning rate, or look at the validation "
                "split.",
            )
        result = self._output / ("adapter" if self._spec.method == "lora" else "model")
        if self._processes.is_first:
            learner, best = self._learner, self._checkpoints.path(state.best_step)
            if self._fsdp:
                learner = Learner(self._spec, self._objective, self._precision, torch.device("cpu"))
            if self._fsdp or state.best_step != state.step:
                learner.restore(best)
            write_folder(result, learner.served_files(self._choices.max_length))
        self._processes.wait()
        if self._processes.is_first:
            self._judge_result(result)
        self.record.state("succeeded", step=state.step, result=result.name)

    def _judge_result(self, result: Path) -> None:
        def reopened() -> Classifier:
            base = self._learner.loaded if self._spec.method == "lora" else None
            return load_classifier(result, base, dtype=self._precision, device=self._device.type)

        def beat() -> None:
            self.record.beat()
            if self._stop:  # however many processes there were: nothing is shared any more
                raise Stopped

        evaluation = self._objective.evaluate(reopened, self._state.best_step, beat)
        if evaluation is not None:
            data = msgspec.json.encode(evaluation)
            write_file(self._output / "evaluation.json", data)
            line = {"step": evaluation.step, "split": evaluation.split, "examples": evaluation.examples}
            self.record.line("evaluation", **line, **headline(msgspec.json.decode(data)))


@contextlib.contextmanager
def _broken_dataset_told() -> Iterator[None]:
    """As a TrainingFailure `data`."""
    try:
        yield
    except DataError as error:
        raise TrainingFailure("data", error.message) from error
    except FileNotFoundError as error:
        raise TrainingFailure("data", f"The dataset has no {Path(error.filename).name}.") from error


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
