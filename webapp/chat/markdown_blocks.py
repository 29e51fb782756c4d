"""Cuts a growing Markdown text into finished top-level blocks and an open rest. Knows nothing of HTML.

A block is finished once no later line can change what it is. The decision looks at complete lines only, never at a
line that is still being written, so however the text arrives, the same blocks come out and none is taken back.
Where Markdown leaves doubt the block stays open: a cut too late costs a little rendering, a cut too early costs
the meaning. The one exception is a very long list, which is cut between two items so that its cost stays bounded.
"""

from __future__ import annotations

import re

# A list longer than this is cut before its next top-level item.
LONG_LIST = 8_000

FENCE = re.compile(r" {0,3}(?:(?P<ticks>`{3,})[^`]*|(?P<tildes>~{3,}).*)$")
HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
DASHES = re.compile(r" {0,3}-+[ \t]*$")
ITEM = re.compile(
    r"(?P<indent> {0,3})(?P<marker>[-+*]|(?P<number>\d{1,9})[.)])(?P<space>[ \t]+|$)(?P<text>.*)$"
)
MATHS = re.compile(r" {0,3}(?P<open>\$\$|\\\[|\\begin\{[a-z]+\*?\})")
# What CommonMark counts as blank; a no-break space, for one, is text.
BLANK = " \t\r\n"
CLOSERS = {"$$": "$$", "\\[": "\\]"}


def split(text: str) -> tuple[list[str], str]:
    """The sources of the finished blocks, and the open rest; joined they are `text` again."""
    splitter = BlockSplitter()
    return splitter.feed(text), splitter.rest


class BlockSplitter:
    """`split` for a text that arrives in pieces: each `feed` costs the new text, not the text so far."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # complete lines of the open block
        self._partial: list[str] = []  # pieces of the line being written
        self._size = 0
        self._kind = ""  # "", "paragraph", "indented", "list", "fence", "maths"
        self._closer = ""  # what ends a fence (its run of ticks or tildes) or a formula
        self._item_indent = 0  # column at which the content of the list's current item starts
        self._blank = False  # the last complete line of the open block is blank
        self._finished: list[str] = []

    @property
    def rest(self) -> str:
        """The source of the open block, with the line that is being written."""
        return "".join(self._lines) + "".join(self._partial)

    def feed(self, text: str) -> list[str]:
        """Takes the next piece of the text; returns the sources of the blocks it finished."""
        *complete, partial = text.split("\n")
        if complete:
            complete[0] = "".join(self._partial) + complete[0]
            self._partial = []
        if partial:
            self._partial.append(partial)
        for line in complete:
            self._take(line)
        finished, self._finished = self._finished, []
        return finished

    def _take(self, line: str) -> None:
        bare = line.rstrip("\r").replace("\t", "    ") if "\t" in line else line.rstrip("\r")
        if self._kind == "fence":
            self._keep(line)
            close = bare.strip()
            if (
                len(bare) - len(bare.lstrip(" ")) <= 3
                and close.startswith(self._closer)
                and not close.strip(close[0])
            ):
                self._cut()
        elif not bare.strip(BLANK):
            self._take_blank(line)
        elif self._kind == "maths":
            self._keep(line)
            self._end_maths(bare)
        else:
            self._take_text(line, bare)

    def _take_blank(self, line: str) -> None:
        self._keep(line)
        self._blank = True
        if self._kind in ("paragraph", "maths"):
            self._cut()

    def _take_text(self, line: str, bare: str) -> None:
        indent = len(bare) - len(bare.lstrip(" "))
        item = ITEM.match(bare)
        if self._kind == "list":
            if indent >= self._item_indent:
                self._keep(line)
                return
            if item and not RULE.match(bare):
                if self._size > LONG_LIST:
                    self._cut()
                self._start_item(line, item)
                return
            if self._blank:
                self._cut()
        elif self._kind == "indented":
            if indent >= 4:
                self._keep(line)
                return
            self._cut()
        self._start_or_continue(line, bare, indent, item)

    def _start_or_continue(self, line: str, bare: str, indent: int, item: re.Match[str] | None) -> None:
        fence, maths = FENCE.match(bare), MATHS.match(bare)
        if fence:
            self._cut()
            self._kind, self._closer = "fence", fence["ticks"] or fence["tildes"]
            self._keep(line)
        elif HEADING.match(bare):
            self._cut()
            self._keep(line)
            self._cut()
        elif maths:
            self._cut()
            self._kind = "maths"
            self._closer = CLOSERS.get(maths["open"]) or maths["open"].replace("begin", "end", 1)
            self._keep(line)
            self._end_maths(bare[maths.end() :])
        elif RULE.match(bare) and not (self._kind == "paragraph" and DASHES.match(bare)):
            self._cut()
            self._keep(line)
            self._cut()
        elif item and (not self._kind or self._may_interrupt(item)):
            self._cut()
            self._kind = "list"
            self._start_item(line, item)
        elif not self._kind:
            self._kind = "indented" if indent >= 4 else "paragraph"
            self._keep(line)
        else:
            # A line of dashes under text is a heading or a rule, and ends here; under a line with a bar, a table.
            ends = self._kind == "paragraph" and DASHES.match(bare) and "|" not in self._lines[-1]
            self._keep(line)
            if ends:
                self._cut()

    @staticmethod
    def _may_interrupt(item: re.Match[str]) -> bool:
        """Whether this list item may follow a paragraph without a blank line (CommonMark 5.3)."""
        return bool(item["text"].strip()) and item["number"] in (None, "1")

    def _start_item(self, line: str, item: re.Match[str]) -> None:
        space = len(item["space"])
        if not item["text"] or space > 4:
            space = 1
        self._item_indent = len(item["indent"]) + len(item["marker"]) + space
        self._keep(line)

    def _end_maths(self, bare: str) -> None:
        """Ends a formula at a line that ends with its closer; one that goes on behind it is a paragraph."""
        if bare.rstrip().endswith(self._closer):
            self._cut()
        elif self._closer in bare:
            self._kind = "paragraph"

    def _keep(self, line: str) -> None:
        self._lines.append(line + "\n")
        self._size += len(line) + 1
        self._blank = False

    def _cut(self) -> None:
        """Finishes the open block; blank lines alone stay, as the start of the next one."""
        self._kind, self._blank = "", False
        if any(line.strip(BLANK) for line in self._lines):
            self._finished.append("".join(self._lines))
            self._lines, self._size = [], 0
