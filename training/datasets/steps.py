"""The steps of a recipe that change one example by itself. Knows nothing of other examples, files or models."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import msgspec
from ftfy import TextFixerConfig, fix_text

from training.datasets.examples import Example, LabelledExample, TranslationExample
from training.datasets.personal import redact
from training.datasets.recipe import Recipe
from training.datasets.texts import has_something_to_learn, map_texts

# An example changed, or None: left out.
Step = Callable[[Example], Example | None]

# Only what is broken: quotes, ligatures and entities may be meant.
_REPAIR = TextFixerConfig(
    unescape_html=False,
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    normalization=None,
    explain=False,
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_UNEVEN = re.compile(r"[ \t\u00a0]{2}|[ \t\u00a0]\n|\n\s*\n\s*\n|\A\s|\s\Z")
_SPACES = re.compile(r"(?<=\S)[ \t\u00a0]{2,}(?=\S)")
_TRAILING = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def steps_of(recipe: Recipe) -> list[tuple[str, Step]]:
    """Those switched on, by the recipe's field, in order."""
    steps: list[tuple[str, Step]] = []
    if recipe.repair_unicode:
        steps.append(("repair_unicode", _on_texts(repair)))
    if form := recipe.normalise_unicode:
        steps.append(("normalise_unicode", _on_texts(lambda text: unicodedata.normalize(form, text))))
    if recipe.whitespace:
        steps.append(("whitespace", _on_texts(even_whitespace)))
    if recipe.missing != "keep":
        fill = recipe.missing_fill if recipe.missing == "fill" else None
        steps.append(("missing", lambda example: _without_missing(example, fill)))
    if recipe.drop_empty:
        steps.append(("drop_empty", lambda example: example if has_something_to_learn(example) else None))
    if recipe.redact:
        kinds = frozenset(recipe.redact)
        steps.append(("redact", _on_texts(lambda text: redact(text, kinds))))
    return steps


def _on_texts(change: Callable[[str], str]) -> Step:
    return lambda example: map_texts(example, change)


def repair(text: str) -> str:
    if text.isascii() and not _CONTROLS.search(text):
        return text
    return fix_text(text, _REPAIR)


def even_whitespace(text: str) -> str:
    """Trimmed; runs of spaces within a line and of blank lines joined; indentation and fenced code as they are."""
    if not _UNEVEN.search(text):
        return text
    parts: list[str] = []
    at = 0
    while fence := _FENCE.search(text, at):
        close = re.compile(rf"^ {{0,3}}{re.escape(fence[1])}[`~]*[ \t]*$", re.MULTILINE).search(
            text, fence.end()
        )
        end = close.end() if close else len(text)
        parts += [_even(text[at : fence.start()]), text[fence.start() : end]]
        at = end
    parts.append(_even(text[at:]))
    return "".join(parts).strip()


def _even(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("", _SPACES.sub(" ", text)))


def _without_missing(example: Example, fill: str | None) -> Example | None:
    """Fields of what comes from tables; of other kinds an empty text may be meant."""
    if not isinstance(example, LabelledExample | TranslationExample):
        return example
    names = ("text",) if isinstance(example, LabelledExample) else ("source", "target")
    filled: dict[str, Any] = {name: fill for name in names if not getattr(example, name).strip()}
    # No label at all is an answer, an empty one is not.
    if isinstance(example, LabelledExample) and not all(example.labels):
        filled["labels"] = [label or fill for label in example.labels]
    if not filled:
        return example
    return None if fill is None else msgspec.structs.replace(example, **filled)
