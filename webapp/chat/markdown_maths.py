"""Formulas in Markdown: finds $..$, $$..$$, \\(..\\), \\[..\\] and \\begin..\\end, and makes MathML of them.

What cannot be read as a formula is shown as its source. Knows nothing of the rest of Markdown, nor of who sanitises.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

# latex2mathml costs about 10 µs a character and recurses once per brace.
MAX_SOURCE = 4_000
MAX_DEPTH = 40
# A closing dollar is not followed by a digit, so that "$5 or $10" stays money (pandoc's rule).
DOLLAR = re.compile(r"\$(?![\s$])((?:[^$\\]|\\.)++)(?<!\s)\$(?!\d)", re.DOTALL)
OPENERS = {"$$": "$$", "\\(": "\\)", "\\[": "\\]"}
ENVIRONMENT = re.compile(r"\\begin\{([a-z]+\*?)\}")
# Environments latex2mathml lacks or numbers, and those it has that mean the same here.
RENAMED = {
    "aligned": "align*",
    "align": "align*",
    "alignat": "align*",
    "eqnarray": "align*",
    "gathered": "gather*",
    "gather": "gather*",
    "multline": "gather*",
    "split": "align*",
}
DROPPED = re.compile(
    r"\\(?:begin|end)\{(?:equation|displaymath|math)\*?\}|\\(?:label|tag)\*?\{[^{}]*\}|\\(?:nonumber|notag)\b"
)
_ATTRIBUTES = """
display displaystyle mathvariant stretchy fence form separator accent movablelimits lspace rspace width height
depth minsize maxsize linethickness notation columnalign rowspacing columnspacing
"""
KEPT_ATTRIBUTES = frozenset(_ATTRIBUTES.split())


@lru_cache(maxsize=2048)
def to_mathml(source: str, *, display: bool) -> str | None:
    """MathML of a LaTeX formula, or None where it is no formula we can read. Never raises."""
    source = source.strip()
    if not source or len(source) > MAX_SOURCE or _depth(source) > MAX_DEPTH:
        return None
    source = DROPPED.sub("", source)
    source = re.sub(
        r"\\(begin|end)\{([a-z]+)\*?\}", lambda m: f"\\{m[1]}{{{RENAMED.get(m[2], m[2])}}}", source
    )
    try:
        root = Converter(display="block" if display else "inline").convert_to_element(source)
        for element in root.iter():
            _settle(element)
        return tostring(root, encoding="unicode").replace(
            ' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1
        )
    except (
        Exception
    ):  # A formula is free text: whatever the converter makes of it, the answer is still shown.
        return None


def _settle(element: Element) -> None:
    """Turns the converter's entities into characters; refuses a command it passed through unread."""
    if element.text:
        element.text = html.unescape(element.text)
        if element.tag == "mi" and element.text.startswith("\\"):
            raise ValueError(element.text)
    for name in [*element.attrib]:
        if name not in KEPT_ATTRIBUTES and name != "xmlns":
            del element.attrib[name]


def _depth(source: str) -> int:
    deepest = depth = 0
    for character in source:
        if character == "{":
            depth += 1
            deepest = max(deepest, depth)
        elif character == "}":
            depth -= 1
    return deepest + source.count("\\left") + source.count("\\begin")


def _render(source: str, display: bool, delimiters: str) -> str:
    mathml = to_mathml(source, display=display)
    if mathml is None:
        opener, _, closer = delimiters.partition(" ")
        return f"<code>{html.escape(opener + source + closer)}</code>"
    return mathml


def inline_rule(state: StateInline, silent: bool) -> bool:
    """A formula within a line of text."""
    source, pos = state.src, state.pos
    if source[pos] not in "$\\":
        return False
    two = source[pos : pos + 2]
    if two in OPENERS:
        closer = OPENERS[two]
        end = source.find(closer, pos + 2, min(state.posMax, pos + MAX_SOURCE))
        if end <= pos + 2:
            return False
        content, after, display, markup = (
            source[pos + 2 : end],
            end + 2,
            two in ("$$", "\\["),
            f"{two} {closer}",
        )
    elif two[0] == "$" and (match := DOLLAR.match(source, pos, min(state.posMax, pos + MAX_SOURCE))):
        content, after, display, markup = match[1], match.end(), False, "$ $"
    else:
        return False
    if not silent:
        token = state.push("maths_inline", "math", 0)
        token.content, token.markup, token.meta = content, markup, {"display": display}
    state.pos = after
    return True


def block_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own, ended by its closer at a line's end, a blank line, or the end of the text."""
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    environment = ENVIRONMENT.match(first)
    opener = first[:2]
    if environment:
        opener, closer = environment[0], f"\\end{{{environment[1]}}}"
    elif opener in ("$$", "\\["):
        closer = OPENERS[opener]
    else:
        return False
    line, text, lines = start, first[len(opener) :], []
    while True:
        stripped = text.rstrip()
        if stripped.endswith(closer):
            lines.append(stripped[: -len(closer)])
            break
        if closer in text:
            return False  # Text goes on behind it: part of a paragraph.
        lines.append(text)
        line += 1
        if line >= end:
            break
        if state.isEmpty(line) or state.sCount[line] < state.blkIndent:
            return False
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
    closed = line < end
    if silent:
        return True
    token = state.push("maths_block", "math", 0)
    token.block, token.map = True, [start, min(line + 1, end)]
    body = "\n".join(lines)
    token.content = f"{opener}{body}{closer}" if environment else body
    token.markup = " " if environment else f"{opener} {closer}"
    if not closed:
        token.type, token.content = "maths_open", f"{opener}{body}"
    state.line = min(line + 1, end)
    return True


def _render_inline(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    return f'<span class="math">{_render(token.content, bool(token.meta["display"]), token.markup)}</span>'


def _render_block(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<div class="math">{_render(tokens[index].content, True, tokens[index].markup)}</div>\n'


def _render_open(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<div class="math"><code>{html.escape(tokens[index].content)}</code></div>\n'


def maths_plugin(md: MarkdownIt) -> None:
    """Adds the rules above to a parser."""
    md.inline.ruler.before("escape", "maths_inline", inline_rule)
    md.block.ruler.before(
        "fence", "maths_block", block_rule, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    md.add_render_rule("maths_inline", _render_inline)
    md.add_render_rule("maths_block", _render_block)
    md.add_render_rule("maths_open", _render_open)
