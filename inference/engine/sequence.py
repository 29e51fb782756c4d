"""One request while the engine has it: its tokens, its memory, its text. Knows nothing of models or other requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.engine.adapters import LoadedAdapter
from inference.engine.grammar import Grammar
from inference.engine.lookup import PromptLookup
from inference.engine.reading import PromptReader
from inference.engine.sampler import SamplingState
from inference.text.detokenizer import IncrementalDetokenizer


@dataclass(eq=False)
class Sequence:
    """Known tokens are the prompt and what was answered; a step lets the computed ones catch up with them."""

    id: str
    token_ids: list[int]
    prompt_tokens: int
    max_tokens: int
    end_token_ids: frozenset[int]
    sampling: SamplingState
    detokenizer: IncrementalDetokenizer
    chain_root: bytes = b""  # whose blocks it may share: see `blocks.chain_root`
    computed: int = 0  # tokens whose keys and values are in the cache
    sound: int = 0  # of these, those after which the model's numbers were seen to be finite
    cached_tokens: int = 0  # of its prompt, those that were there when its turn came
    block_table: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)  # of its full blocks, as far as asked for
    published: int = 0  # its first blocks that others can find
    charged_tokens: int = 0  # its first tokens that its workspace's counter holds: see `fairness`
    salt: str = ""
    adapter: LoadedAdapter | None = None  # this version, whatever its name is given to meanwhile
    pinned: bool = False  # whether it holds its adapter's slot: from its turn on until it leaves
    text: list[str] = field(default_factory=list)  # given out so far, in pieces
    logprobs: int | None = None  # alternatives to list with each answered token
    grammar: Grammar | None = None
    reader: PromptReader | None = None  # until it has seen all of the prompt
    lookup: PromptLookup | None = None  # where answers are speculated on
    draft: list[int] = field(default_factory=list)  # guesses that this step computes too
    cancelled: bool = False
    finish_reason: str | None = None  # set before the first step where an earlier attempt had reached its end
    error: str = ""

    @property
    def answered(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    @property
    def missing(self) -> int:
        """Known tokens that are still to be computed."""
        return len(self.token_ids) - self.computed

    @property
    def skippable(self) -> int:
        """Its first tokens, as many as need not be computed where their keys and values are found."""
        # The last one is computed whatever is known: its logits are wanted.
        return len(self.token_ids) - 1 if self.reader is None else self.reader.position

    def append(self, token: int, text_bytes: bytes) -> str:
        """Takes an answered token in; returns the text that became certain, and sets `finish_reason` at the end."""
        self.token_ids.append(token)
        self.sampling.append(token)
        text = self.detokenizer.push(text_bytes)
        if self.grammar is not None:
            self._follow(self.grammar, token)
        if self.detokenizer.stopped:
            self.finish_reason = "stop"
        elif self.finish_reason or self.answered >= self.max_tokens:
            self.finish_reason = self.finish_reason or "length"
            text += self.detokenizer.finish()
            # What was held back may have been the stop string's last chance.
            if self.detokenizer.stopped:
                self.finish_reason = "stop"
        self.text.append(text)
        return text

    def _follow(self, grammar: Grammar, token: int) -> None:
        grammar.advance(token)
        if grammar.failure:
            self.finish_reason, self.error = "error", grammar.failure
        elif grammar.finished:
            self.finish_reason = "stop"
        self.sampling.allowed = grammar.allowed
