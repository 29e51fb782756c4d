"""What is done to data before it is frozen: a switch for each step. Knows nothing of how the steps work.

A version's hash is taken of the examples that come of it: the same recipe on the same data is the same version, and so
is another recipe that makes the same examples of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Split(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Shares of the examples; what is left is for training. Near-duplicates and groups stay together."""

    validation: float = 0.1
    test: float = 0.1
    salt: str = "flywheel"
    given: str = ""  # the validation split is other files: the SHA-256 over them, as of the sources


class Augment(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """For labelled texts in the training split only: changed copies that mean the same."""

    copies: int = 1
    swap: float = 0.1  # share of neighbouring words that change places
    delete: float = 0.1  # share of words left out
    typo: float = 0.0  # share of words with one letter changed
    seed: int = 0


class Recipe(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Steps run in the order of these fields."""

    repair_unicode: bool = True  # mojibake, by ftfy
    normalise_unicode: Literal["", "NFC", "NFKC"] = "NFC"
    whitespace: bool = True  # trims, and joins runs of blank lines and spaces outside code
    missing: Literal["drop", "fill", "keep"] = "drop"  # empty fields of labelled and translated examples
    missing_fill: str = ""
    drop_empty: bool = True  # nothing to learn from
    redact: list[str] = []  # kinds of personal data replaced by [EMAIL] and the like
    deduplicate: Literal["", "exact", "near"] = "exact"
    drop_outliers: bool = False
    drop_overlap: bool = True  # what is in the evaluation data
    max_tokens: int = 0  # 0: whatever the length
    too_long: Literal["drop", "cut", "keep"] = "keep"
    augment: Augment | None = None
    split: Split = Split()


class Effect(msgspec.Struct):
    """What one step did, or would do."""

    step: str  # the recipe's field
    changed: int  # examples it changes
    dropped: int  # examples it leaves out
    added: int = 0
    samples: list[tuple[str, str]] = []  # before and after, a few; none of what was done for good
    splits: dict[str, int] = {}  # of the last step: examples in each
