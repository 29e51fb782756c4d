"""An engine without a model: its text is a function of (seed, choice, position), at a set number of tokens a second.

It keeps the engine's contract (admission, resumption, stop strings, cancellation), so everything around it is real.

Speed and length: SCRIPTED_RATE tokens a second for each reply [50] and SCRIPTED_TOKENS [64], or `max_tokens`, or, in
the last message, words such as `tokens=200`, `rate=25` and `fail_after=10`; `cached=8` is how much of the prompt was
known; `say=Quiet_harbours` is an answer, which ends by itself.
With an adapter it answers what "says" is in the adapter's adapter_config.json, spelt in the same way.

Of a prompt, each word is a token. Logprobs are a function of (token's text, position), a vector is one of the text's
words: texts with words in common are close to each other.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from inference.engine.interface import (
    Admission,
    AlternativeToken,
    EngineBusy,
    EngineFigures,
    InvalidAdapter,
    InvalidGrammar,
    InvalidRequest,
    PromptTooLong,
    Request,
    StepOutput,
    TokenLogprob,
    UnknownAdapter,
)
from inference.models import ServedModel
from inference.parameters import JsonSchema

CONTEXT_LENGTH = 8192
VOCABULARY = 49_152  # the demo model's, so that its token ids are known here
VECTOR_SIZE = 32
DIGEST = hashlib.sha256(b"scripted engine").hexdigest()
# The token ids of the two halves of one character: its text appears with the second.
HEAD, TAIL = 0, 1
_EMOJI = "🙂".encode()
_WORDS = "the quick brown fox jumps over a lazy dog and runs far away"
_PIECES = (
    *(_EMOJI[:2], _EMOJI[2:]),
    *(f"{word} ".encode() for word in _WORDS.split()),
    *(f"{word} ".encode() for word in ("**bold**", "`code`", "naïve", "漢字", "3 < 4 & 5")),
    *(b".\n\n", b"- item\n", b"\n"),
)


def token_id(seed: int, choice: int, position: int) -> int:
    """The token at `position` (from 0) of the answer."""
    if position % 2 and _draw(seed, choice, position - 1) == HEAD:
        return TAIL
    drawn = _draw(seed, choice, position)
    return drawn if position % 2 == 0 or drawn != HEAD else 2


@lru_cache(maxsize=200_000)
def _draw(seed: int, choice: int, position: int) -> int:
    drawn = int.from_bytes(
        hashlib.blake2b(f"{seed}:{choice}:{position}".encode(), digest_size=4).digest(), "big"
    )
    return HEAD if drawn % 16 == 0 else 2 + drawn % (len(_PIECES) - 2)


def text_of(seed: int, tokens: int, choice: int = 0) -> str:
    """The whole answer of `tokens` tokens: what a reader must have seen in the end."""
    return b"".join(_PIECES[token_id(seed, choice, i)] for i in range(tokens)).decode(errors="replace")


def logprob_of(token: int, piece: bytes, position: int, top: int) -> TokenLogprob:
    """The token is the likeliest, unless its own number is odd: then it is the second."""
    draw = hashlib.blake2b(piece + position.to_bytes(4, "big"), digest_size=4).digest()
    logprobs = [-0.001 - draw[0] / 256]
    for n in range(1, top + 1):
        logprobs.append(logprobs[-1] - 0.1 - draw[n % 4] / 256)
    chosen = draw[1] % 2
    others = [(token + n) % len(_PIECES) for n in range(1, top + 1)]
    tokens = [(other, _PIECES[other]) for other in others]
    tokens.insert(chosen, (token, piece))
    alternatives = [
        AlternativeToken(id, text, logprob) for (id, text), logprob in zip(tokens, logprobs, strict=False)
    ]
    return TokenLogprob(token, piece, logprobs[min(chosen, top)], alternatives[:top])


def prompt_tokens_of(prompt: str | list[int]) -> list[tuple[int, bytes]]:
    """Ids and bytes; of a text's tokens the bytes make up the text."""
    if isinstance(prompt, list):
        return [(token, _PIECES[token % len(_PIECES)]) for token in prompt]
    words = re.findall(r"\s*\S+(?:\s+$)?|^\s+$", prompt)
    return [(int.from_bytes(_digest(word)[:2], "big") % VOCABULARY, word.encode()) for word in words]


def vector_of(prompt: str | list[int]) -> list[float]:
    """The sum of its words' own directions, of length 1."""
    vector = [0.0] * VECTOR_SIZE
    for _, piece in prompt_tokens_of(prompt):
        direction = _digest(piece.decode(errors="replace").strip().lower())
        vector = [value + byte - 127.5 for value, byte in zip(vector, direction, strict=True)]
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def _digest(word: str) -> bytes:
    return hashlib.blake2b(word.encode(), digest_size=VECTOR_SIZE).digest()


@dataclass(frozen=True)
class ScriptedAdapter:
    digest: str
    says: str


@dataclass
class _Sequence:
    request: Request
    max_tokens: int
    interval: float
    fail_after: int | None
    due: float
    position: int = 0
    cancelled: bool = False
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    cached: int = 0
    say: list[str] = field(default_factory=list)  # the words of the answer, where the message gives them
    held: str = ""  # decoded, but maybe the beginning of a stop string
    read: bool = False  # what there is to say of the prompt has been said

    @property
    def ending(self) -> Literal["stop", "length"]:
        """Who was told what to say ends by itself."""
        return "stop" if self.say and self.position >= len(self.say) else "length"


class ScriptedEngine:
    """Implements `inference.engine.interface.Engine`."""

    model_digest = DIGEST

    def __init__(self, *, rate: float = 50.0, tokens: int = 64, max_waiting: int = 10_000) -> None:
        self._rate, self._tokens, self._max = rate, tokens, max_waiting
        self._running: dict[str, _Sequence] = {}
        self._adapters: dict[str, ScriptedAdapter] = {}

    def prepare(self, request: Request) -> None:
        pass

    def read_adapter(self, folder: Path) -> ScriptedAdapter:
        try:
            text = (folder / "adapter_config.json").read_text()
            return ScriptedAdapter(hashlib.sha256(text.encode()).hexdigest(), json.loads(text)["says"])
        except OSError as error:
            raise InvalidAdapter(f"adapter_config.json: cannot be read: {error.strerror}.") from error

    def add_adapter(self, name: str, adapter: ScriptedAdapter) -> None:
        self._adapters[name] = adapter

    def submit(self, request: Request, prepared: Any = None) -> Admission:
        self._check(request)
        if len(self._running) >= self._max:
            raise EngineBusy("Too many replies are being written right now. Try again in a moment.")
        prompt_tokens, dropped = self._fit(request)
        last = str(request.messages[-1]["content"]) if request.messages else request.prompt or ""
        asked = {
            name: float(value)
            for name, value in re.findall(r"\b(tokens|rate|fail_after|cached)=(\d+)\b", last)
        }
        limit = request.sampling.max_tokens
        wanted = int(asked.get("tokens", self._tokens if limit is None else limit))
        if request.pooling is not None or limit == 0:
            wanted = 0
        max_tokens = min(wanted, CONTEXT_LENGTH - prompt_tokens)
        interval = 1 / (asked.get("rate") or self._rate)
        # Replies of one speed share their ticks, as sequences of one batch share its steps.
        due = (math.floor(time.monotonic() / interval) + 1) * interval
        fail_after = int(asked["fail_after"]) if "fail_after" in asked else None
        if request.adapter and request.adapter not in self._adapters:
            raise UnknownAdapter(f"There is no adapter named {request.adapter!r} here.")
        if request.adapter:
            last = f"say={self._adapters[request.adapter].says}"
        said = re.search(r"\bsay=(\w+)", last)
        say = [f"{word} " for word in said[1].split("_")] if said else []
        sequence = _Sequence(
            request,
            min(max_tokens, len(say) or max_tokens),
            interval,
            fail_after,
            due,
            cached=int(asked.get("cached", 0)),
            say=say,
        )
        for token in request.prior_token_ids:
            self._text(sequence, token)
        self._running[request.id] = sequence
        return Admission(prompt_tokens=prompt_tokens, max_tokens=max_tokens, dropped_messages=dropped)

    def _check(self, request: Request) -> None:
        prompt = request.prompt if request.prompt_token_ids is None else request.prompt_token_ids
        if [request.messages, request.prompt, request.prompt_token_ids].count(None) != 2:
            raise InvalidRequest("A request has either messages or a prompt, as text or as tokens.")
        if prompt is not None and len(prompt) == 0:
            raise InvalidRequest("The prompt is empty.")
        if not all(0 <= token < VOCABULARY for token in request.prompt_token_ids or []):
            raise InvalidRequest("The tokens of the prompt are not of this model.")
        try:
            request.sampling.check()
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        asked = request.sampling.response_format
        if isinstance(asked, JsonSchema):
            try:
                json.loads(asked.schema)
            except ValueError as error:
                raise InvalidGrammar(f"The schema is not valid JSON: {error}.") from error

    def _fit(self, request: Request) -> tuple[int, int]:
        prompt = request.prompt if request.prompt_token_ids is None else request.prompt_token_ids
        if prompt is not None:
            lengths = [len(prompt_tokens_of(prompt))]
        else:
            lengths = [len(str(m["content"]).split()) + 4 for m in request.messages or []]
        dropped = 0
        fixed = 1 if request.messages and request.messages[0]["role"] == "system" else 0
        while request.truncate_oldest and sum(lengths) >= CONTEXT_LENGTH and len(lengths) > fixed + 1:
            del lengths[fixed]
            dropped += 1
        if sum(lengths) >= CONTEXT_LENGTH:
            raise PromptTooLong(
                f"The message is {sum(lengths)} tokens long, {sum(lengths) - CONTEXT_LENGTH + 1} more than fit.",
                prompt_tokens=sum(lengths),
                context_length=CONTEXT_LENGTH,
            )
        return sum(lengths), dropped

    def cancel(self, request_id: str) -> None:
        if request_id in self._running:
            self._running[request_id].cancelled = True

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def figures(self) -> EngineFigures:
        return EngineFigures()

    def close(self) -> None:
        pass

    def step(self) -> list[StepOutput]:
        if not self._running:
            return []
        now = time.monotonic()
        earliest = min(s.due for s in self._running.values())
        if not any(s.cancelled for s in self._running.values()) and earliest > now:
            # Short, so that a submission never waits for a slow reply's next token.
            time.sleep(min(earliest - now, 0.02))
            now = time.monotonic()
        outputs = [self._advance(s, now) for s in list(self._running.values()) if s.cancelled or s.due <= now]
        for output in outputs:
            if output.finish_reason:
                del self._running[output.request_id]
        return outputs

    def _advance(self, sequence: _Sequence, now: float) -> StepOutput:
        request = sequence.request
        if sequence.cancelled:
            return StepOutput(request.id, [], self._flush(sequence), "cancelled")
        if sequence.position == sequence.fail_after:
            return StepOutput(request.id, [], "", "error", "The scripted engine was told to fail here.")
        if sequence.position >= sequence.max_tokens:
            return self._read(sequence, StepOutput(request.id, [], self._flush(sequence), sequence.ending))
        # After a stall it goes on at its speed, from the current tick, instead of catching up in a burst.
        sequence.due = max(sequence.due + sequence.interval, now // sequence.interval * sequence.interval)
        token, text, stopped = self._say(sequence)
        at_end = sequence.position >= sequence.max_tokens
        reason = "stop" if stopped else sequence.ending if at_end else None
        if at_end and not stopped:
            text += self._flush(sequence)
        output = StepOutput(request.id, [token], text, reason, cached_tokens=sequence.cached)
        if request.sampling.logprobs is not None:
            position = sequence.position - 1
            piece = self._piece(sequence, token, position)
            output.logprobs = [logprob_of(token, piece, position, request.sampling.logprobs)]
        return self._read(sequence, output)

    def _read(self, sequence: _Sequence, output: StepOutput) -> StepOutput:
        """Adds what is to be said of the prompt, with an attempt's first token or with the end."""
        request, asked = sequence.request, sequence.request.sampling.prompt_logprobs
        prompt = request.prompt if request.prompt_token_ids is None else request.prompt_token_ids
        if prompt is None:  # as the chat template would write it
            prompt = "\n".join(f"{m['role']}: {m['content']}" for m in request.messages or [])
        if not sequence.read and request.pooling is not None:
            output.embedding = vector_of(prompt)
        elif not sequence.read and asked is not None:
            tokens = enumerate(prompt_tokens_of(prompt))
            output.prompt_logprobs = [
                logprob_of(token, piece, n, asked) if n else TokenLogprob(token, piece, None)
                for n, (token, piece) in tokens
            ]
        sequence.read = True
        return output

    def _piece(self, sequence: _Sequence, token: int, position: int) -> bytes:
        return sequence.say[position].encode() if sequence.say else _PIECES[token]

    def _say(self, sequence: _Sequence) -> tuple[int, str, bool]:
        """The next token, the text that became certain with it, and whether a stop string ended the answer."""
        token = token_id(sequence.request.seed, sequence.request.choice, sequence.position)
        return token, *self._text(sequence, token)

    def _text(self, sequence: _Sequence, token: int) -> tuple[str, bool]:
        """Feeds one token; returns the text that became certain and whether a stop string ended it."""
        piece = self._piece(sequence, token, sequence.position)
        sequence.position += 1
        text = sequence.held + sequence.decoder.decode(piece)
        stops = sequence.request.sampling.stop
        ends = [text.find(stop) for stop in stops if stop in text]
        if ends:
            sequence.held = ""
            return text[: min(ends)], True
        keep = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        cut = len(text) - keep
        sequence.held = text[cut:]
        return text[:cut], False

    def _flush(self, sequence: _Sequence) -> str:
        return sequence.held + sequence.decoder.decode(b"", final=True)


def load(model: ServedModel, *, beside: object = None) -> ScriptedEngine:
    """What INFERENCE_ENGINE names in tests."""
    return ScriptedEngine(
        rate=float(os.environ.get("SCRIPTED_RATE", "50")), tokens=int(os.environ.get("SCRIPTED_TOKENS", "64"))
    )
