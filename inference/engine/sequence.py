"""One request while the engine has it: its tokens, its memory, its text. Knows nothing of models or other requests."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    block_table: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)  # of its full blocks, as far as asked for
    published: int = 0  # its first blocks that others can find
    salt: str = ""
    text: list[str] = field(default_factory=list)  # given out so far, in pieces
    cancelled: bool = False
    finish_reason: str | None = None  # set before the first step where an earlier attempt had reached its end

    @property
    def answered(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    @property
    def missing(self) -> int:
        """Known tokens that are still to be computed."""
        return len(self.token_ids) - self.computed

    def append(self, token: int, text_bytes: bytes) -> str:
        """Takes an answered token in; returns the text that became certain, and sets `finish_reason` at the end."""
        self.token_ids.append(token)
        self.sampling.append(token)
        text = self.detokenizer.push(text_bytes)
        if self.detokenizer.stopped:
            self.finish_reason = "stop"
        elif self.answered >= self.max_tokens:
            self.finish_reason = "length"
            text += self.detokenizer.finish()
            # What was held back may have been the stop string's last chance.
            if self.detokenizer.stopped:
                self.finish_reason = "stop"
        self.text.append(text)
        return text
