"""What is wrong with data, said in the reader's language. Files and rows keep the sentences of training/datasets in
English, with names and numbers in them; what is known of them is translated, the rest stays as it is.
"""

from __future__ import annotations

import functools
import re

from django.utils.translation import get_language
from django.utils.translation import gettext as _

from training.forms import SHAPES

# Of these, the holes that words of ours fill. What fills others is out of people's files: a sheet “Data”, a label.
_OUR_WORDS: dict[str, tuple[int, ...]] = {
    "A dataset holds examples of one kind, and this one has {0}.": (0,),
    "A dataset holds one kind of example; this has {0}.": (0,),
    "It holds {0}.": (0,),
    "Read as {0}, it does not fit the others, which are {1}.": (0, 1),
    "The file is {0}.": (0,),
    "The file is damaged: {0}.": (0,),
    "The file is read as {0}, and the first file as {1}.": (0, 1),
    "The job failed due to an invalid {0}.": (0,),
    "The model's vocabulary cannot be read: {0}": (0,),
    "The name ends in .{0}, but the file is {1}.": (1,),
    "The {0} is empty.": (0,),
    "The {0} is not a text.": (0,),
    "The {0} says nothing.": (0,),
    "The {0} speaks twice in a row.": (0,),
}
# Sentences with holes, as the catalogue has them. Those without are known by being in it.
TEMPLATES = (
    *_OUR_WORDS,
    "{0} is half of a character, and the other half is not there.",
    "{0} is too large to be looked into within an archive, which is done up to {1} MB: upload it unpacked.",
    "{0} of the dataset cannot be read: {1}.",
    "{0} of the dataset is not what was frozen.",
    "A message has no {0}: it is ignored.",
    "A process that worked on the data ended with status {0}.",
    "A row is longer than {0} MB: shorten it, or split it.",
    "A sheet has at most {0} rows.",
    "A web page over {0} MB is not read.",
    "Examples with the label “{0}”: {1}. That is too few to learn it and to judge.",
    "It has {0} fields, and the table has {1} columns.",
    "It has {0} messages; of one conversation at most {1} are read.",
    "It has {0} tokens where {1} fit; {2} of those cut off would be learnt. Shown is how what is cut off begins.",
    "It has more than {0} columns.",
    "It has no column called {0} any more: check which field is which.",
    "It holds {0}, and only text is learnt.",
    "It is longer than {0} MB.",
    "It is longer than {0} MB; a quotation mark may not be closed.",
    "It is nearly the same as {0}, line {1}.",
    "It is no row of a table: {0}.",
    "It is not in Unicode, and is read as {0}.",
    "It is not valid JSON: {0}.",
    "It is the same as {0}, line {1}.",
    "Its examples are those of the list “{0}”.",
    "Its examples are called {0} and so on: write them as a list, without names.",
    "Its examples are in the list {0}: make a file of that list alone.",
    "Its comma can be read in two ways; write {0} or {1}.",
    "Its name ends in .{0}, and it is not that.",
    "Line {0} of {1}.jsonl cannot be read: {2}.",
    "Only the sheet {0} is read, and not {1}.",
    "Pages with pictures and no text: {0}.",
    "The archive has {0} files; at most {1} are read.",
    "The cell says {0}.",
    "The dataset in {0} cannot be read: {1}.",
    "The dataset in {0} is not what its manifest says.",
    "The evaluation data in {0} cannot be read: {1}.",
    "The example has no {0}.",
    "The message has no {0}.",
    "The messages are not valid JSON: {0}.",
    "The same text is {0} in {1}, and {2} here.",
    "The workbook has no sheet {0}.",
    "({0}) There are {1} such problems in all.",
    "There is no encoding {0}: choose another.",
)
_HOLE = re.compile(r"\{\d\}")
_LINE = re.compile(r"(.+), line (\d+)")


def said(text: str) -> str:
    """Sentences of training/datasets in the reader's language: one or more, each perhaps behind a place and a colon."""
    if not text or (get_language() or "en").startswith("en"):
        return text
    if (exactly := _(text)) != text:
        return exactly
    for end in re.finditer(r"(?<=[.?!]) ", text):
        if (first := _sentence(text[: end.start()])) is not None:
            return first + said(text[end.end() :])
    return _sentence(text) or text


def _sentence(text: str) -> str | None:
    if (known := _known(text)) is not None:
        return known
    place, _colon, rest = text.partition(": ")
    if (known := _known(rest)) is None:
        return None
    return f"{_place(place)}：{known}"


def _place(text: str) -> str:
    line = _LINE.fullmatch(text)
    return text if line is None else _("%(file)s, line %(line)s") % {"file": line[1], "line": line[2]}


def code_name(code: str) -> str:
    """ "missing_messages_list" as "Missing messages list", in the reader's language."""
    return _(code.replace("_", " ").capitalize())


def _known(text: str) -> str | None:
    if (translated := _(text)) != text:
        return translated
    if text in SHAPES:
        return str(SHAPES[text])
    for template, pattern in _patterns():
        if (found := pattern.fullmatch(text)) is not None:
            ours = _OUR_WORDS.get(template, ())
            fillings = (
                (number in ours and _known(filling)) or _place(filling)
                for number, filling in enumerate(found.groups())
            )
            return _(template).format(*fillings)
    return None


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """What says most of a sentence comes first."""
    most_first = sorted(TEMPLATES, key=lambda template: -len(_HOLE.sub("", template)))
    return [
        (each, re.compile("(.+?)".join(map(re.escape, _HOLE.split(each))), re.DOTALL)) for each in most_first
    ]
