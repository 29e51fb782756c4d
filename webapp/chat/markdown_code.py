"""Code blocks: a figure with the language's name, a copy button and Pygments' classes. Knows nothing of Markdown.

The result is shared by people of different languages, so it holds no words of ours: the button is named by the
element `label-copy` of the page.
"""

from __future__ import annotations

import html
from functools import cache

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

# Lexers run on text a stranger asked for, so only those in wide use, and only up to a size.
_LANGUAGES = """
bash bat c clojure cmake console cpp c++ cs csharp c# css cypher dart diff docker dockerfile elixir erlang elm
fish fortran fsharp go golang gradle graphql groovy haskell hcl html http ini java javascript js json json5
jsx julia kotlin latex less lua make makefile markdown matlab md mysql nginx nix objective-c ocaml octave
pascal perl php plpgsql postgresql powershell proto protobuf ps1 py pycon pytb python python3 r rb regex ruby
rs rust sass scala scss sh shell solidity sql sqlite3 svelte swift tcl terraform tex toml ts tsx typescript
vb.net verilog vhdl vim vue wast xml yaml yml zig zsh
"""
LANGUAGES = frozenset(_LANGUAGES.split())
MAX_HIGHLIGHTED = 60_000
# Code still being written is coloured only while that is cheap: it is rendered again and again.
MAX_HIGHLIGHTED_OPEN = 3_000
CLASSES = frozenset(name for name in STANDARD_TYPES.values() if name)

_formatter = HtmlFormatter(nowrap=True)


@cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def render_code(code: str, language: str, *, limit: int = MAX_HIGHLIGHTED) -> str:
    """The figure of one code block; longer code than `limit` is left without colours."""
    name = language.lower()[:30]
    lexer = _lexer(name) if name in LANGUAGES and len(code) <= limit else None
    body = highlight(code, lexer, _formatter) if lexer else html.escape(code)
    return (
        '<figure class="code"><figcaption>'
        f'<span class="code-language">{html.escape(name)}</span>'
        '<button type="button" class="copy" aria-labelledby="label-copy"></button>'
        f'</figcaption><pre tabindex="0"><code>{body}</code></pre></figure>\n'
    )
