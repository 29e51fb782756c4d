"""The engine: many requests at once through one Transformer, one token each a step, more where guesses were right.

Knows no services, only requests.

Implements `inference.engine.interface.Engine`. A request flows: PromptBuilder -> Sequence -> Scheduler -> LlamaModel ->
sampler -> IncrementalDetokenizer -> StepOutput.
"""

from __future__ import annotations

import logging
import os
from itertools import accumulate, islice
from pathlib import Path

import torch

from inference.engine import allocator
from inference.engine.adapter_file import MAX_RANK
from inference.engine.adapter_manager import AdapterManager
from inference.engine.adapters import LoadedAdapter
from inference.engine.answers import Answers
from inference.engine.attention import PagedAttention, Span
from inference.engine.blocks import BlockManager, chain_root
from inference.engine.compiled import CompiledLayers
from inference.engine.cuda_graphs import DecodeGraphs
from inference.engine.device import to_device
from inference.engine.flash_attention import FlashAttention, is_for_flash
from inference.engine.grammar import GrammarCompiler
from inference.engine.interface import Admission, EngineFigures, InvalidRequest, Request, StepOutput
from inference.engine.kv_cache import KVCache
from inference.engine.linear import INT4_ROWS
from inference.engine.loaded_model import LoadedModel
from inference.engine.logprobs import token_logprobs
from inference.engine.lookup import MOST_DRAFTED, LookupUse, PromptLookup
from inference.engine.prompt import Prompt, PromptBuilder
from inference.engine.reading import Pooler, PromptReader, PromptScorer
from inference.engine.sampler import SamplingFailure, SamplingState, sample
from inference.engine.scheduler import PrefixUse, Scheduler
from inference.engine.sequence import Sequence
from inference.engine.settings import resolve_max_tokens, resolve_settings
from inference.text.detokenizer import IncrementalDetokenizer

logger = logging.getLogger(__name__)

_MAX_CACHE_BYTES = 4 * 2**30
_GPU_SHARE = 0.8  # of the memory that the model leaves; steps need some, too
_MAX_FAILED_STEPS = 3  # in a row
_STEP_FAILED = "The model broke off because of an error on our side. Try again."
_NO_MEMORY = "There was not enough memory for this. Try again, or with a shorter text."
_NOT_FINITE = "The model gave numbers that are not finite, so nothing can be said of this text."


class TorchEngine:
    """Not thread-safe: one thread calls it. See `interface.Engine` for the contract."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_running: int = 32,
        max_waiting: int = 512,
        kv_tokens: int | None = None,
        kv_share: float = 1.0,
        max_loras: int = 8,
        max_lora_rank: int = MAX_RANK,
        max_cpu_loras: int = 32,
        compiled: Path | None = None,
        speculation: bool = True,
        recorded: bool = True,
    ) -> None:
        """`kv_share` of what keys and values would get if no other engine were to have any, where `kv_tokens` says
        nothing. `speculation` guesses tokens (see `lookup`): it changes no answer, only how many steps it takes.
        Without `recorded` a GPU's steps are launched kernel by kernel, which is slower and keeps nothing."""
        allocator.keep_what_steps_use()
        self._loaded, self._model = loaded, loaded.model
        self.model_digest = loaded.digest
        self.dtype = loaded.dtype
        self.tokenizer = loaded.tokenizer
        config, device = loaded.config, loaded.model.device
        if kv_tokens is None:
            size = config.kv_elements_per_token * loaded.model.dtype.itemsize
            kv_tokens = _affordable_tokens(size, device, kv_share)
        capacity = min(kv_tokens, max_running * config.context_length)
        self._cache = KVCache(config, capacity, loaded.model.dtype, device=device)
        self._flash = is_for_flash(self._cache)
        self.context_length = min(config.context_length, self._cache.capacity)
        self._answers = Answers(self._cache.capacity)
        self._prompts = PromptBuilder(
            loaded.tokenizer, loaded.template, self.context_length, self._answers, config.vocab_size
        )
        self._grammars = GrammarCompiler(loaded.tokenizer, config.vocab_size)
        self._blocks = BlockManager(self._cache.num_blocks)
        self._adapters = AdapterManager(
            config,
            loaded.model.dtype,
            device,
            max_loras=max_loras,
            max_lora_rank=max_lora_rank,
            max_cpu_loras=max_cpu_loras,
        )
        self._scheduler = Scheduler(
            self._blocks,
            self._adapters,
            self._cache.clear,
            max_running=max_running,
            max_waiting=max_waiting,
        )
        self._sequences: dict[str, Sequence] = {}
        self._failed_steps = 0
        self._speculation = speculation
        self.lookup_use = LookupUse(0, 0)  # since the engine began
        self.compiled: CompiledLayers | None = None
        self.graphs: DecodeGraphs | None = None
        if device.type == "cuda" and recorded:
            self.graphs = DecodeGraphs(self._model, self._cache, max(max_running, 1 + MOST_DRAFTED))
        elif device.type != "cuda" and compiled is not None:
            self.compiled = CompiledLayers(self._model, compiled)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def prepare(self, request: Request) -> Prompt:
        if request.sampling.response_format is not None:
            self._grammars.compile(request.sampling.response_format)
        return self._prompts.build(request)

    def submit(self, request: Request, prepared: Prompt | None = None) -> Admission:
        if request.id in self._sequences:
            raise InvalidRequest(f"A request with the id {request.id} is running already.")
        if request.pooling is not None and request.prior_token_ids:
            raise InvalidRequest("Of a text that is made a vector of, nothing was answered before.")
        sampling = request.sampling
        try:
            sampling.check()
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        vocab_size = self._loaded.config.vocab_size
        if not all(0 <= token < vocab_size for token in request.prior_token_ids):
            raise InvalidRequest("The tokens to continue from are not of this model.")
        for name, tokens in (
            ("logit_bias", sampling.logit_bias),
            ("stop_token_ids", sampling.stop_token_ids),
        ):
            if not all(0 <= token < vocab_size for token in tokens):
                raise InvalidRequest(f"{name} has tokens that are not of this model.")
        adapter = self._adapters.get(request.adapter) if request.adapter else None
        prompt = prepared or self._prompts.build(request)
        room = self.context_length - len(prompt.ids)
        wanted = 0 if request.pooling else resolve_max_tokens(sampling, self._loaded.defaults)
        max_tokens = room if wanted is None else min(wanted, room)
        ends = frozenset() if sampling.ignore_eos else self._loaded.end_token_ids
        ends |= {*sampling.stop_token_ids}
        state = SamplingState(resolve_settings(sampling, self._loaded.defaults), request.seed, request.choice)
        state.prepare(prompt.ids, sampling.logit_bias, self._model.device)
        grammar = None
        if sampling.response_format is not None and max_tokens > 0:
            grammar = self._grammars.compile(sampling.response_format, ends)
            state.allowed = grammar.allowed
        sequence = Sequence(
            id=request.id,
            salt=request.cache_salt,
            chain_root=chain_root(
                self.model_digest, self.dtype, adapter.digest if adapter else "", request.cache_salt
            ),
            adapter=adapter,
            token_ids=list(prompt.ids),
            prompt_tokens=len(prompt.ids),
            max_tokens=max_tokens,
            end_token_ids=ends,
            sampling=state,
            # A grammar says itself how the text begins.
            detokenizer=IncrementalDetokenizer(
                sampling.stop, strips_leading_space=self.tokenizer.strips_leading_space and grammar is None
            ),
            logprobs=sampling.logprobs,
            grammar=grammar,
            reader=self._reader(request, prompt.ids),
            # What a grammar allows after a guess is not known before the guess is taken.
            lookup=PromptLookup() if self._speculation and grammar is None else None,
            finish_reason="stop" if grammar is not None and grammar.finished else None,
        )
        for token in request.prior_token_ids:
            sequence.append(token, self.tokenizer.token_bytes(token))
            if sequence.finish_reason:
                break
        self._scheduler.add(sequence)
        self._sequences[request.id] = sequence
        return Admission(len(prompt.ids), max_tokens, prompt.dropped_messages)

    def cancel(self, request_id: str) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.cancelled = True

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        outputs = self._leave()
        plan = self._scheduler.schedule()
        try:
            may_start = self._adapters.step(hurried=bool(plan))
        except (RuntimeError, MemoryError):
            logger.exception("there is no room for the adapters beside the weights")
            self._end_all([s for s in self._sequences.values() if s.pinned], outputs, _NO_MEMORY)
            self._adapters.clear()
            plan = [(sequence, count) for sequence, count in plan if sequence.id in self._sequences]
            may_start = True
        if may_start and not plan:
            plan = self._scheduler.schedule()
        if not plan:
            return outputs
        try:
            self._compute(plan, outputs)
        except Exception as error:
            self._failed_steps += 1
            if self._failed_steps == _MAX_FAILED_STEPS:
                raise
            logger.exception("a step of %d requests failed", len(plan))
            no_memory = isinstance(error, torch.OutOfMemoryError)
            why = _NO_MEMORY if no_memory else _STEP_FAILED
            self._end_all([sequence for sequence, _ in plan], outputs, why)
        else:
            self._failed_steps = 0
        return outputs

    def _compute(self, plan: list[tuple[Sequence, int]], outputs: list[StepOutput]) -> None:
        """One forward pass; what comes of it is added to the outputs."""
        # Who shares an adapter is computed by the same core, one after the other: each reads fewer of them.
        plan = sorted(plan, key=lambda planned: planned[0].adapter.digest if planned[0].adapter else "")
        hidden = self._forward(plan)
        wanted: list[int] = []  # rows that choose a token: the last known one's, and its draft's
        ready: list[Sequence] = []
        row = 0
        for sequence, count in plan:
            if sequence.reader is not None:
                sequence.reader.read(sequence.computed, hidden[row : row + count])
            row += count
            # A guess counts as computed once it proves right.
            sequence.computed += count - len(sequence.draft)
            if sequence.missing == 0:
                if sequence.max_tokens > 0:
                    wanted += range(row - 1 - len(sequence.draft), row)
                    ready.append(sequence)
                elif sequence.reader is not None:
                    outputs.append(self._finish_reading(sequence, sequence.reader))
        if ready:
            if len(wanted) < len(hidden):
                hidden = hidden.index_select(0, to_device(wanted, hidden.device))
            outputs += self._choose(self._model.logits(hidden), ready)

    def _forward(self, plan: list[tuple[Sequence, int]]) -> torch.Tensor:
        """The last hidden states of all tokens that the step computes, one sequence after the other."""
        ids = [
            t
            for sequence, count in plan
            for t in sequence.token_ids[sequence.computed : sequence.computed + count] + sequence.draft
        ]
        compiled = self.compiled if self.compiled is not None and self.compiled.ready else None
        gathered = compiled.gathered_product if compiled else None
        adapt = self._adapters.rows([(sequence.adapter, count) for sequence, count in plan], gathered)
        graphs = self.graphs if adapt is None else None
        # Few drafted tokens are faster as so many single ones, where these are compiled or recorded.
        most_pieces = 1 + MOST_DRAFTED if graphs else INT4_ROWS if compiled else 1
        spans: list[Span] = []
        for sequence, count in plan:
            pieces = count if sequence.draft and count <= most_pieces else 1
            starts = range(sequence.computed, sequence.computed + pieces)
            spans += [Span(start, count // pieces, sequence.block_table) for start in starts]
        recorded = graphs.run(ids, spans) if graphs else None
        if recorded is not None:
            return recorded
        tokens = to_device(ids, self._model.device)
        if self._flash:
            flash = FlashAttention.over(self._cache, spans)
            return self._model(tokens, flash.positions, flash, adapt)
        attend = PagedAttention(self._cache, spans, together=compiled is not None)
        run = compiled.over(attend, adapt) if compiled else None
        return self._model(tokens, attend.positions, attend, adapt, run)

    def read_adapter(self, folder: Path) -> LoadedAdapter:
        """Reads and checks a PEFT LoRA folder, which is slow; may be called from any thread. Raises InvalidAdapter."""
        return self._adapters.read(folder)

    def add_adapter(self, name: str, adapter: LoadedAdapter) -> None:
        """From now on, requests for `name` use this adapter; those that are here finish with the one they began with.

        It is put beside the weights when a request needs it. Of the names, the longest unused are forgotten.
        """
        self._adapters.add(name, adapter)

    def load_adapter(self, name: str, folder: Path) -> str:
        """`read_adapter` and `add_adapter` in one; answers the adapter's content digest."""
        adapter = self.read_adapter(folder)
        self.add_adapter(name, adapter)
        return adapter.digest

    def remove_adapter(self, name: str) -> None:
        """New requests for `name` are refused; those that are here finish. An unknown name is no error."""
        self._adapters.remove(name)

    @property
    def prefix_use(self) -> PrefixUse:
        """Since the engine began."""
        return self._scheduler.prefix_use

    def figures(self) -> EngineFigures:
        blocks, prefix = self._blocks, self.prefix_use
        return EngineFigures(
            kv_blocks=blocks.num_blocks - 1,
            kv_blocks_used=blocks.held,
            kv_blocks_kept=blocks.kept,
            prefix_tokens=prefix.asked,
            prefix_tokens_reused=prefix.reused,
            adapters=self._adapters.loaded,
        )

    def encode_prompt(self, request: Request) -> list[int]:
        """The ids the request's prompt has. Raises as `submit` does; nothing is kept."""
        return self._prompts.build(request).ids

    def check_integrity(self) -> None:
        """Raises AssertionError where memory was lost or given out twice."""
        self._blocks.check_integrity([sequence.block_table for sequence in self._sequences.values()])
        self._adapters.check_integrity(
            [s.adapter for s in self._sequences.values() if s.adapter is not None and s.pinned]
        )
        if len(self._scheduler) != len(self._sequences):
            raise AssertionError(f"{len(self._scheduler)} sequences scheduled of {len(self._sequences)}.")

    def close(self) -> None:
        """Ends the processes that render chat templates and compile; they also end with this one."""
        if self.compiled is not None:
            self.compiled.close()
        if self._loaded.template is not None:
            self._loaded.template.close()

    def _leave(self) -> list[StepOutput]:
        """Those who were cancelled, or whose earlier attempt had come to its end."""
        outputs: list[StepOutput] = []
        for sequence in [s for s in self._sequences.values() if s.cancelled or s.finish_reason]:
            if sequence.finish_reason:
                # The text of its last token was given out with that token.
                outputs.append(StepOutput(sequence.id, [], "", sequence.finish_reason, sequence.error))
            else:
                outputs.append(StepOutput(sequence.id, [], sequence.detokenizer.finish(), "cancelled"))
            self._remove(sequence)
        return outputs

    def _reader(self, request: Request, prompt: list[int]) -> PromptReader | None:
        if request.pooling is not None:
            return Pooler(request.pooling)
        if request.sampling.prompt_logprobs is None:
            return None
        top, vocab_size = request.sampling.prompt_logprobs, self._loaded.config.vocab_size
        return PromptScorer(prompt, top, self._model.logits, vocab_size, self.tokenizer.token_bytes)

    def _choose(self, logits: torch.Tensor, ready: list[Sequence]) -> list[StepOutput]:
        """The next tokens of each, from its rows of the logits: one, and one for each token of its draft."""
        states = [sequence.sampling.along(sequence.draft) for sequence in ready]
        ends = [*accumulate(map(len, states))]
        rows = [slice(end - len(own), end) for end, own in zip(ends, states, strict=True)]
        asking = [at for at, sequence in enumerate(ready) if sequence.logprobs is not None]
        # A copy, since the sampler changes what it is given.
        raw = torch.cat([logits[rows[at]] for at in asking]) if asking else logits
        chosen = sample(logits, [state for own in states for state in own])
        outputs = [self._verify(sequence, chosen[own]) for sequence, own in zip(ready, rows, strict=True)]
        if asking:
            said = [token for at in asking for token in chosen[rows[at]]]
            tops = [ready[at].logprobs or 0 for at in asking for _ in states[at]]
            tokens = [0 if isinstance(token, SamplingFailure) else token for token in said]
            scores = iter(token_logprobs(raw, tokens, tops, self.tokenizer.token_bytes))
            for at in asking:
                outputs[at].logprobs = [*islice(scores, len(states[at]))][: len(outputs[at].token_ids)]
        return outputs

    def _verify(self, sequence: Sequence, chosen: list[int | SamplingFailure]) -> StepOutput:
        """Takes what was chosen after the known tokens, and after each guess as far as the guesses are right."""
        draft, sequence.draft = sequence.draft, []
        output = self._take(sequence, chosen[0])
        accepted = 0
        while accepted < len(draft) and not output.finish_reason and chosen[accepted] == draft[accepted]:
            accepted += 1
            sequence.computed += 1
            more = self._take(sequence, chosen[accepted])
            output.token_ids += more.token_ids
            output.text += more.text
            output.finish_reason, output.error = more.finish_reason, more.error
        use = self.lookup_use
        self.lookup_use = LookupUse(use.drafted + len(draft), use.accepted + accepted)
        return output

    def _take(self, sequence: Sequence, token: int | SamplingFailure) -> StepOutput:
        if isinstance(token, SamplingFailure):
            return self._fail(sequence, str(token))
        if sequence.reader is not None and not sequence.reader.finite:
            return self._fail(sequence, _NOT_FINITE)
        self._scheduler.computed(sequence)
        if token in sequence.end_token_ids:
            self._remove(sequence)
            rest = sequence.detokenizer.finish()
            sequence.text.append(rest)
            self._remember(sequence)
            output = StepOutput(sequence.id, [], rest, "stop")
        else:
            text = sequence.append(token, self.tokenizer.token_bytes(token))
            if sequence.finish_reason:
                self._remove(sequence)
                self._remember(sequence)
            output = StepOutput(sequence.id, [token], text, sequence.finish_reason, sequence.error)
        output.cached_tokens = sequence.cached_tokens
        if sequence.reader is not None:
            sequence.reader.fill(output)
            sequence.reader = None
        return output

    def _finish_reading(self, sequence: Sequence, reader: PromptReader) -> StepOutput:
        """The end of one that generates nothing."""
        if not reader.finite:
            return self._fail(sequence, _NOT_FINITE)
        self._scheduler.computed(sequence)
        self._remove(sequence)
        output = StepOutput(sequence.id, [], finish_reason="length", cached_tokens=sequence.cached_tokens)
        reader.fill(output)
        return output

    def _fail(self, sequence: Sequence, error: str) -> StepOutput:
        self._remove(sequence, poisoned=True)
        return StepOutput(sequence.id, [], sequence.detokenizer.finish(), "error", error)

    def _end_all(self, sequences: list[Sequence], outputs: list[StepOutput], why: str) -> None:
        """After a failure half-way through: every one of them ends, if it has not, and is said to have ended."""
        said = {output.request_id for output in outputs}
        for sequence in sequences:
            if sequence.id in self._sequences:
                self._remove(sequence, poisoned=True)
            if sequence.id not in said:
                rest = sequence.detokenizer.finish()
                outputs.append(StepOutput(sequence.id, [], rest, "error", why))

    def _remember(self, sequence: Sequence) -> None:
        """Its text will come back as a message of the next turn, unless a stop string cut it off from its tokens."""
        answer = sequence.token_ids[sequence.prompt_tokens :]
        if not sequence.detokenizer.stopped and self.tokenizer.special_ids.isdisjoint(answer):
            self._answers.remember(sequence.salt, "".join(sequence.text), answer)

    def _remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        self._scheduler.remove(sequence, poisoned=poisoned)
        del self._sequences[sequence.id]


def _affordable_tokens(bytes_per_token: int, device: torch.device, share: float) -> int:
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] * _GPU_SHARE * share
        return max(int(room) // bytes_per_token, 1024)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        free = _MAX_CACHE_BYTES
    return max(int(min(free // 4, _MAX_CACHE_BYTES) * share) // bytes_per_token, 1024)
