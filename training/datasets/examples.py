"""What one can learn from: the canonical form of every kind of example, whatever file it came in.

Knows nothing of files, models or Django. These are the lines of a frozen dataset and what the trainer reads.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["chat", "preference", "labelled", "translation", "document"]


class Message(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str
    weight: Literal[0, 1] = 1  # 0: an assistant's message that is context, and not learnt


class ChatExample(msgspec.Struct, tag="chat", tag_field="kind", forbid_unknown_fields=True):
    """Also what prompt/completion, ShareGPT and Alpaca become."""

    messages: list[Message]


class PreferenceExample(msgspec.Struct, tag="preference", tag_field="kind", forbid_unknown_fields=True):
    messages: list[Message]  # up to the answer
    preferred: str
    rejected: str


class LabelledExample(
    msgspec.Struct, tag="labelled", tag_field="kind", omit_defaults=True, forbid_unknown_fields=True
):
    """A text with its label, its labels (multi-label; none is an answer too), or its number (regression)."""

    text: str
    labels: list[str] = []
    value: float | None = None


class TranslationExample(msgspec.Struct, tag="translation", tag_field="kind", forbid_unknown_fields=True):
    source: str
    target: str


class DocumentExample(
    msgspec.Struct, tag="document", tag_field="kind", omit_defaults=True, forbid_unknown_fields=True
):
    text: str
    title: str = ""


Example = ChatExample | PreferenceExample | LabelledExample | TranslationExample | DocumentExample


class Record(msgspec.Struct, omit_defaults=True):
    """An example and where it came from: what reading leaves for all later steps, one JSON line each."""

    example: Example
    file: int  # which of the sources
    line: int  # of the file, from 1: its row in a table, its number in Parquet, its page in a PDF
    path: str = ""  # in an archive, with its name: "archive.zip/notes.txt"
    group: str = (
        ""  # what must not be torn apart by a split (a conversation, a person), where the file says it
    )
