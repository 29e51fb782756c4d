"""Markdown of an answer to safe HTML, one top-level block at a time. Knows nothing of messages and sockets.

The parser is told to escape raw HTML and to drop dangerous links; nh3 then removes whatever is not on the list
below, so that a mistake in the parser, a plugin or a lexer is no hole in the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from mdit_py_plugins.tasklists import tasklists_plugin

from webapp.chat.markdown_blocks import BlockSplitter, split
from webapp.chat.markdown_code import CLASSES, MAX_HIGHLIGHTED, MAX_HIGHLIGHTED_OPEN, render_code
from webapp.chat.markdown_maths import KEPT_ATTRIBUTES, maths_plugin

__all__ = ["BlockSplitter", "render", "render_open", "split"]

_TAGS = """
a blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr input li ol p pre s span strong table tbody
td th thead tr ul
"""
_MATHML = """
math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow mspace msqrt mstyle msub
msubsup msup mtable mtd mtext mtr munder munderover
"""
ATTRIBUTES: dict[str, set[str]] = {
    "a": {"href", "title"},
    "ol": {"start"},
    "input": {"checked", "disabled"},
    "button": {"aria-labelledby"},
    "pre": {"tabindex"},
    **{tag: set(KEPT_ATTRIBUTES) for tag in _MATHML.split()},
}
ATTRIBUTE_VALUES: dict[str, dict[str, set[str]]] = {
    "input": {"type": {"checkbox"}},
    "button": {"type": {"button"}},
}
ALLOWED_CLASSES: dict[str, set[str]] = {
    "figure": {"code"},
    "button": {"copy"},
    "div": {"math", "table-scroll"},
    "span": {"code-language", "math", *CLASSES},
    "th": {"align-left", "align-center", "align-right"},
    "td": {"align-left", "align-center", "align-right"},
    "ul": {"contains-task-list"},
    "ol": {"contains-task-list"},
    "li": {"task-list-item"},
}
_cleaner = nh3.Cleaner(
    tags={*_TAGS.split(), *_MATHML.split()},
    attributes=ATTRIBUTES,
    tag_attribute_values=ATTRIBUTE_VALUES,
    set_tag_attribute_values={"a": {"target": "_blank"}},
    allowed_classes=ALLOWED_CLASSES,
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)
# Text in which no character can mean anything to Markdown needs no parser: most open blocks while they stream.
PLAIN = re.compile(r"[ ]{0,3}[^\W\d_](?:[^\n\r\\`*_~\[\]!<>&$#|{}:=\x00]|:(?!//))*\n?", re.ASCII)
# Every opening bracket may begin a link and costs the parser some 20 µs; a block with more is not prose.
MAX_BRACKETS = 10_000
CODE_END = re.compile(r"\n(</code></pre></figure>(?:\s*</(?:li|ul|ol|blockquote)>)*)$")
EMPTY_CODE = re.compile(r"<code></code></pre></figure>(?:\s*</(?:li|ul|ol|blockquote)>)*$")
LINE_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)


class _Renderer(RendererHTML):
    """HTML of the tokens that must look other than markdown-it's own."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        language = tokens[idx].info.strip().split(maxsplit=1)
        return render_code(
            tokens[idx].content, language[0] if language else "", limit=env.get("limit", MAX_HIGHLIGHTED)
        )

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return render_code(tokens[idx].content, "")

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A link: loading a picture would tell its host who reads this conversation, and when."""
        source = str(tokens[idx].attrs.get("src", ""))
        text = self.renderInlineAsText(tokens[idx].children, options, env) or source
        return f'<a href="{html.escape(source)}">{html.escape(text)}</a>'

    def _heading(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Two levels down: the page's own headings stand above an answer's."""
        tokens[idx].tag = f"h{min(6, int(tokens[idx].tag[1]) + 2)}"
        return self.renderToken(tokens, idx, options, env)

    heading_open = heading_close = _heading

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="table-scroll"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def _cell(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Alignment as a class: the page's policy forbids styles in attributes."""
        style = str(tokens[idx].attrs.pop("style", ""))
        if style:
            tokens[idx].attrs["class"] = f"align-{style.rpartition(':')[2]}"
        return self.renderToken(tokens, idx, options, env)

    th_open = td_open = _cell


def _line_break(state: StateInline, silent: bool) -> bool:
    """`<br>` is the one tag models write on purpose: a table cell has no other way to break a line."""
    match = LINE_BREAK.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "<" else None
    if match is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = match.end()
    return True


def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer)
    md.enable(["table", "strikethrough"])
    md.use(tasklists_plugin)
    md.use(maths_plugin)
    md.inline.ruler.before("autolink", "line_break", _line_break)
    return md


_markdown = _parser()


def render(source: str) -> str:
    """HTML of one block (or of any Markdown text), sanitised. Never raises."""
    return _render(source, MAX_HIGHLIGHTED)


def render_open(source: str) -> str:
    """HTML of the open block while it grows, and behind it the white space that `source` ends with.

    That white space tells the page how the text to come goes on after the last element's text. Long code gets
    its colours only when it is finished.
    """
    text = source.rstrip(" \t\r\n")
    end = source[len(text) :]
    shown = _render(text, MAX_HIGHLIGHTED_OPEN).rstrip("\n")
    if EMPTY_CODE.search(shown):
        end = end.partition("\n")[2]  # the first line break ends the fence's line, it is not part of the code
    return CODE_END.sub(r"\1", shown) + end


def _render(source: str, limit: int) -> str:
    if not source.strip():
        return ""
    # A lone surrogate is no character: it cannot be sent, and the sanitiser would refuse it.
    source = source.encode("utf-8", "replace").decode("utf-8")
    if PLAIN.fullmatch(source):
        return f"<p>{html.escape(source.strip(), quote=False)}</p>\n"
    if source.count("[") > MAX_BRACKETS:
        return _verbatim(source)
    try:
        return _cleaner.clean(_markdown.render(source, {"limit": limit}))
    except Exception:  # Whatever the parser or a lexer trips over, the words themselves are still shown.
        return _verbatim(source)


def _verbatim(source: str) -> str:
    return _cleaner.clean(f"<pre><code>{html.escape(source)}</code></pre>\n")
