"""Keeps an answer to a JSON schema or a regular expression, by llguidance. Knows nothing of models or scheduling.

Compiling is bounded by size and by llguidance's own limits on its work ("fuel"), so that an explosion is an error and
not a wait. It may run in any thread, ahead of the engine's, which finds the result by its content.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import llguidance
import msgspec
import numpy as np
import torch

from inference.engine.interface import InvalidGrammar
from inference.parameters import JsonSchema, Regex, ResponseFormat
from inference.text.tokenizer import Tokenizer

_MAX_BYTES = 64 * 2**10  # of a schema or a pattern
_KEPT = 256  # grammars, more than the requests that are prepared but not submitted yet
# A tenth of a second for compiling, some ten milliseconds for a step of the engine thread, 40 MB.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
    verbose_errors=False,
)


class GrammarCompiler:
    """Thread-safe. What was compiled, or found to be invalid, is kept; the longest unused is forgotten first."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size`: columns of the logits, which may be more than the tokenizer has tokens."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[bytes, llguidance.LLMatcher | InvalidGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(
        self, response_format: ResponseFormat, end_token_ids: frozenset[int] = frozenset()
    ) -> Grammar:
        """The state of an answer that has not begun. Raises InvalidGrammar, with what is wrong as a sentence."""
        key = _encode(response_format)
        with self._lock:
            found = self._kept.get(key)
            if self._vocabulary is None:
                self._vocabulary = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size))
                )
        if found is None:
            try:
                found = _compile(self._vocabulary, response_format)
            except InvalidGrammar as error:
                found = error
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if isinstance(found, InvalidGrammar):
            raise InvalidGrammar(str(found))
        return Grammar(found.deep_copy(), self._vocab_size, end_token_ids)


class Grammar:
    """One answer's: which tokens may come next. Advanced by each token taken."""

    allowed: torch.Tensor  # bool [vocab_size]; end tokens only where the text is complete
    finished: bool  # the text is complete and nothing can follow

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, end_token_ids: frozenset[int]) -> None:
        self._matcher, self._vocab_size, self._ends = matcher, vocab_size, [*end_token_ids]
        self.failure = ""  # a sentence, once something went wrong
        self._look()

    def advance(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            self._fail()
            return
        self._look()

    def _look(self) -> None:
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, count=self._vocab_size + 1, bitorder="little").view(np.bool_)
        allowed, complete = bits[:-1], bits[-1]
        self.finished = not allowed.any()
        allowed[self._ends] = complete
        self.allowed = torch.from_numpy(allowed)
        if self._matcher.is_error():
            self._fail()

    def _fail(self) -> None:
        self.failure = f"The answer cannot keep to its response_format: {_gist(self._matcher.get_error())}."


class _Vocabulary:
    """What llguidance wants to know of a vocabulary. The end is a token of its own after all others: which of the
    model's tokens end an answer is each request's business, and none of them is text."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = [*(tokenizer.token_bytes(token) for token in range(vocab_size)), b""]
        self._ids = {written: token for token, written in enumerate(self.tokens) if written}
        self._longest = max(map(len, self._ids))
        self.eos_token_id = vocab_size
        self.special_token_ids = [*sorted(tokenizer.special_ids), vocab_size]

    def __call__(self, text: bytes) -> list[int]:
        """How the vocabulary writes bytes that must come: as it would itself, if that is what they say in the end.
        Some change white space, which a grammar does not forgive: then by the longest tokens that fit."""
        ids = self._tokenizer.encode_text(text.decode(errors="replace"), first=False)
        if b"".join(self.tokens[token] for token in ids) == text:
            return ids
        ids, start = [], 0
        while start < len(text):
            lengths = range(min(self._longest, len(text) - start), 0, -1)
            length = next((n for n in lengths if text[start : start + n] in self._ids), 0)
            if not length:
                break
            ids.append(self._ids[text[start : start + length]])
            start += length
        return ids


def _encode(response_format: ResponseFormat) -> bytes:
    try:
        encoded = msgspec.json.encode(response_format)
    except ValueError as error:  # half of a surrogate pair
        raise InvalidGrammar("The response_format is no text.") from error
    if len(encoded) > _MAX_BYTES:
        raise InvalidGrammar(
            f"The response_format has {len(encoded)} bytes; at most {_MAX_BYTES} can be worked with."
        )
    return encoded


def _compile(vocabulary: llguidance.LLTokenizer, response_format: ResponseFormat) -> llguidance.LLMatcher:
    if isinstance(response_format, Regex):
        what = "The regular expression"
        source = llguidance.LLMatcher.grammar_from_regex(response_format.pattern)
    else:
        what = "The schema"
        schema = response_format.schema if isinstance(response_format, JsonSchema) else '{"type":"object"}'
        try:
            msgspec.json.decode(schema)  # llguidance writes it as it is into a document of its own
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidGrammar(f"The schema is not JSON: {_gist(str(error))}.") from error
        source = llguidance.LLMatcher.grammar_from_json_schema(schema)
    matcher = llguidance.LLMatcher(vocabulary, source, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise InvalidGrammar(f"{what} cannot be used: {_gist(matcher.get_error())}.")
    start = Grammar(matcher.deep_copy(), vocabulary.vocab_size - 1, frozenset())
    if start.failure:
        raise InvalidGrammar(f"{what} allows no text at all.")
    return matcher


def _gist(message: str) -> str:
    """The gist of what llguidance says: of a regex error, the last line of the quotation it makes."""
    lines = message.split("<state>")[0].splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["unknown"])[0].strip().rstrip(".")[:300]
