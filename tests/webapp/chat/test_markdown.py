"""What people see of an answer's Markdown, while it grows and when it is whole; and what can never get through."""

from __future__ import annotations

import gc
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webapp.chat.markdown import MAX_BRACKETS, BlockSplitter, _cleaner, _markdown, render, render_open, split

# Lines that mean something to Markdown, so that their combinations are tried rather than random letters.
_LINES = (
    "|text|more text|    four|  two|   three|# heading|#|---|***|===|- item|- |* other|+ plus|1. one|2. two|10) ten"
    "|   - nested|> quote|> - in quote|```|```py|   ```|~~~|~~~~ x|`code`|$$|$$ x $$|\\[|\\]|\\[ x \\] y|a $x$"
    "|\\begin{align}|\\end{align}|<b>|<script>|[a](b)|[a]: b|- [ ] todo|\t tab|\u00a0|\r|\\"
)
LINES = st.sampled_from([*_LINES.split("|"), "a | b", "|---|---|"]) | st.text(max_size=12)
DOCUMENTS = st.lists(LINES, max_size=25).map("\n".join) | st.text(max_size=200)

SAMPLE = """# A title

Some **bold** text with $x^2$ and a [link](https://example.org).

- one
- two

  ```python
  def f():

      return 1
  ```

- three

1. first

   more of it
2. second

| a | b |
|---|---|
| 1 | 2 |

> quoted
> text

```python
x = 1


# not a heading
- not a list
```

    indented

    code

$$
a
+ b
$$

Setext
---
The end.
"""


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(at)]


def whole(text: str) -> str:
    blocks, rest = split(text)
    return "".join(render(block) for block in [*blocks, rest])


def squeezed(markup: str) -> str:
    return re.sub(r"\s+", " ", markup).strip()


# --- Cutting into blocks -----------------------------------------------------------------------------------


@given(DOCUMENTS, st.lists(st.integers(min_value=0, max_value=10_000), max_size=12))
def test_blocks_are_the_same_however_the_text_arrives_and_none_is_taken_back(
    text: str, cuts: list[int]
) -> None:
    splitter, finished, so_far = BlockSplitter(), [], ""
    for piece in pieces(text, cuts):
        finished += splitter.feed(piece)
        so_far += piece
        assert split(so_far) == (finished, splitter.rest)
    assert split(text) == (finished, splitter.rest)
    assert "".join(finished) + splitter.rest == text


@given(DOCUMENTS, DOCUMENTS)
def test_finished_blocks_depend_on_complete_lines_alone(text: str, other: str) -> None:
    blocks, _ = split(text + "\n")
    assert split(text + "\n" + other.replace("\n", " "))[0] == blocks
    assert split(text + "\n" + other)[0][: len(blocks)] == blocks


@pytest.mark.parametrize("end", [match.end() for match in re.finditer("\n", SAMPLE)])
def test_cutting_changes_nothing_in_what_is_shown(end: int) -> None:
    assert squeezed(whole(SAMPLE[:end])) == squeezed(render(SAMPLE[:end]))


def test_a_typical_answer_is_finished_block_by_block() -> None:
    blocks, rest = split(SAMPLE)
    assert [block.strip().splitlines()[0] for block in blocks] == [
        "# A title",
        "Some **bold** text with $x^2$ and a [link](https://example.org).",
        "- one",
        "| a | b |",
        "> quoted",
        "```python",
        "indented",
        "$$",
        "Setext",
    ]
    assert rest == "The end.\n"


def test_blank_lines_inside_a_code_block_do_not_end_it() -> None:
    assert split("```\na\n\nb\n")[0] == []
    assert split("```\na\n\nb\n```\n")[0] == ["```\na\n\nb\n```\n"]


def test_a_code_block_behind_a_short_indent_is_not_taken_for_part_of_a_list() -> None:
    text = "10. ten\n   ```\ncode\n\n- code\n   ```\nafter\n\n"
    assert split(text)[0] == ["10. ten\n", "   ```\ncode\n\n- code\n   ```\n", "after\n\n"]


def test_a_very_long_list_is_finished_in_parts_and_goes_on_counting() -> None:
    blocks, rest = split("".join(f"{n}. item number {n}\n" for n in range(1, 2_000)))
    assert len(blocks) >= 3
    assert max(map(len, [*blocks, rest])) < 9_000
    first = int(blocks[1].split(".")[0])
    assert f'<ol start="{first}">' in render(blocks[1])


def test_feeding_a_long_block_piece_by_piece_costs_only_the_new_text() -> None:
    splitter = BlockSplitter()
    splitter.feed("```\n")
    line = "some code that is written on this line\n"
    started = time.perf_counter()
    for _ in range(20_000):
        splitter.feed(line[:20])
        splitter.feed(line[20:])
    assert time.perf_counter() - started < 2
    assert len(splitter.rest) == 4 + 20_000 * len(line)


# --- What is shown -----------------------------------------------------------------------------------------


def test_code_is_a_figure_with_its_language_a_copy_button_and_classes_for_colours() -> None:
    shown = render("```python\ndef f(): return '<b>'\n```\n")
    assert '<figure class="code"><figcaption><span class="code-language">python</span>' in shown
    assert '<button type="button" class="copy" aria-labelledby="label-copy"></button>' in shown
    assert '<span class="k">def</span>' in shown
    assert "&lt;b&gt;" in shown
    assert "style" not in shown


def test_code_in_an_unknown_language_is_shown_plain() -> None:
    assert "<code>x &lt; 1\n</code>" in render("```klingon\nx < 1\n```")


def test_long_open_code_gets_its_colours_only_when_it_is_finished() -> None:
    code = "```python\n" + "x = 1\n" * 2_000
    assert '<span class="n">' not in render_open(code)
    assert '<span class="n">' in render(code + "```\n")


@pytest.mark.parametrize(
    "source",
    ["$x^2$ is 5", "so \\(x^2\\) it is", "$$x^2$$ inline", "\\[ x^2 \\]", "$$\nx^2\n$$", "> $$\n> x^2\n> $$"],
)
def test_maths_in_every_usual_delimiter_becomes_mathml(source: str) -> None:
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in render(source)


def test_an_aligned_environment_becomes_a_table_of_formulas() -> None:
    shown = render("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}\n")
    assert shown.count("<mtr>") == 2
    assert "(1)" not in shown


@pytest.mark.parametrize("source", ["$\\nosuch{x}$", "$\\frac$", "$" + "{" * 2000 + "$", "$$\n\\frac{\n$$"])
def test_maths_that_cannot_be_read_is_shown_as_its_source(source: str) -> None:
    shown = render(source)
    assert "<math" not in shown
    assert "<code>$" in shown


def test_a_formula_still_being_written_is_its_source_and_nothing_else() -> None:
    assert render_open("$$\na_1 * b_2 * c") == '<div class="math"><code>$$\na_1 * b_2 * c</code></div>'


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("Hello ", "<p>Hello</p> "),
        ("one\n", "<p>one</p>\n"),
        ("```\nx", "<code>x</code></pre></figure>"),
        ("```\nx\n\n", "<code>x</code></pre></figure>\n\n"),
        ("```\n", "<code></code></pre></figure>"),
        ("- a\n  ```\n  x\n", "<code>x</code></pre></figure>\n</li>\n</ul>\n"),
        ("\n", "\n"),
        ("", ""),
    ],
)
def test_an_open_block_ends_with_the_white_space_after_which_its_text_goes_on(source: str, end: str) -> None:
    assert render_open(source).endswith(end)
    assert "\n</code>" not in render_open(source)


@pytest.mark.parametrize("source", ["$5 or $10", "It is $5-$10.", "a\\$b$", "costs 5$ and 6$"])
def test_money_is_not_maths(source: str) -> None:
    assert "math" not in render(source)


def test_tables_task_lists_and_strikethrough_are_known() -> None:
    assert '<td class="align-right">2</td>' in render("| a | b |\n|---|--:|\n| 1 | 2 |\n")
    assert 'checked="checked" disabled="disabled" type="checkbox"' in render("- [x] done\n- [ ] not\n")
    assert "<s>gone</s>" in render("~~gone~~")


def test_links_open_apart_and_tell_their_target_nothing() -> None:
    expected = '<a href="https://example.org/" target="_blank" rel="noopener noreferrer nofollow">x</a>'
    assert expected in render("[x](https://example.org/)")
    assert 'href="mailto:a@example.org"' in render("<a@example.org>")


def test_a_picture_is_a_link_so_that_reading_an_answer_calls_no_other_host() -> None:
    shown = render("![a cat](https://example.org/cat.png)")
    assert "<img" not in shown
    assert '<a href="https://example.org/cat.png"' in shown
    assert ">a cat</a>" in shown


def test_headings_stand_below_those_of_the_page() -> None:
    assert render("# One") == "<h3>One</h3>\n"
    assert render("###### Six") == "<h6>Six</h6>\n"


def test_raw_html_is_shown_as_text_but_for_a_line_break() -> None:
    assert "&lt;b&gt;bold&lt;/b&gt;" in render("<b>bold</b>")
    assert "one<br>" in render("one<br>two")


@given(st.text(alphabet="abc XYZ.,'\"-:1)(?\n\t\u00e9\u4f60", max_size=40))
@example("a:b")
@example("A - b")
@example("a:")
def test_the_short_way_for_plain_text_shows_what_the_parser_would(source: str) -> None:
    assert render(source) == (_cleaner.clean(_markdown.render(source)) if source.strip() else "")


# --- What can never get through ----------------------------------------------------------------------------


class Inspector(HTMLParser):
    """Refuses any element, attribute or address that can run or load something."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {
            "script",
            "style",
            "iframe",
            "object",
            "embed",
            "img",
            "svg",
            "link",
            "meta",
            "base",
            "form",
        }
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in {"style", "src", "srcset", "action", "formaction", "id"}
            if name in {"href", "xlink:href"}:
                assert re.match(r"(https?:|mailto:)", value or ""), value


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](//evil.example)",
    "[x](/accounts/logout/)",
    "![x](javascript:alert(1))",
    '![x](https://a.example/"onerror="alert(1))',
    "<javascript:alert(1)>",
    '[x](https://a.example "\\"onmouseover=\\"alert(1)")',
    "```<script>\n</code></pre><script>alert(1)</script>\n```",
    '```py" onclick="alert(1)\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\style{background:url(https://a.example)}{x}$",
    "$\\class{button}{x}$",
    "$\\text{<script>alert(1)</script>}$",
    "$\\text{&lt;img src=x onerror=alert(1)&gt;}$",
    "$\\color{red;background:url(//a.example)}{x}$",
    "$$\n\\text{</math><img src=x onerror=alert(1)>}\n$$",
    "\\(\\unicode{<img src=x onerror=alert(1)>}\\)",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <br onclick=alert(1)> |",
    "<br onclick=alert(1)>",
    "- [x] <input onfocus=alert(1) autofocus>",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt>",
    "[x]: javascript:alert(1)\n[x]",
    "\ud800<b>",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_text_comes_out_harmless(source: str) -> None:
    for shown in (render(source), render_open(source), whole(source)):
        Inspector().feed(shown)
        shown.encode("utf-8")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(HOSTILE) | LINES, max_size=8).map("\n".join) | st.text())
def test_no_text_makes_rendering_fail_or_run_anything(source: str) -> None:
    Inspector().feed(render(source))
    Inspector().feed(render_open(source))


def test_classes_are_only_those_the_renderer_sets() -> None:
    assert "button-danger" not in render("$\\class{button-danger}{x}$")
    assert 'class="button-danger"' not in _cleaner.clean('<span class="button-danger">x</span>')


SIZE = 100_000
PATHOLOGICAL = {
    "brackets": "[" * SIZE,
    "images": "![" * (SIZE // 2),
    "just few enough brackets": "![x " * (MAX_BRACKETS - 1),
    "links": "[a](" * (SIZE // 4),
    "emphasis": "*a_" * (SIZE // 3),
    "ticks": "".join("`" * (n % 300) + "a" for n in range(700)),
    "quotes": ">" * SIZE,
    "nested quotes": "\n".join("> " * n + "x" for n in range(400)),
    "nested lists": "\n".join(" " * (2 * n) + "- x" for n in range(300)),
    "dollars": "$a " * (SIZE // 3),
    "maths openers": "\\( x \\[ " * (SIZE // 8),
    "environments": "\\begin{a}\n" * (SIZE // 10),
    "tags": "<br <a href='" * (SIZE // 13),
    "table": "|" * SIZE + "\n" + "|-" * (SIZE // 2),
    "references": "[a]: b\n" * (SIZE // 14),
    "quoted lists": "> - a\n" * (SIZE // 6),
    "code": "```python\n" + "x = 1  # text\n" * (SIZE // 14),
    "one word": "x" * SIZE,
    "prose": ("The quick *brown* fox, `code` and [l](http://e.org). " * 8 + "\n\n") * (SIZE // 430),
}


def _seconds(source: str) -> float:
    """This thread's work alone: not that of other tests' threads, nor the collector's over all their objects."""
    gc.collect()
    gc.disable()
    try:
        started = time.thread_time()
        whole(source)
        return time.thread_time() - started
    finally:
        gc.enable()


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_an_answer_of_100_kb_is_rendered_within_a_second(name: str) -> None:
    # Or, where the machine is so slow or so busy that plain prose takes a tenth of it, ten times as long as prose.
    assert _seconds(PATHOLOGICAL[name]) < max(1, 10 * _seconds(PATHOLOGICAL["prose"]))
