"""Prompts are those of transformers, people cannot write special tokens, and templates can do no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from inference.text.chat_template import ChatTemplate
from inference.text.open_tokenizer import special_names, tokenizer_from_folder
from inference.text.template_host import TemplateError
from tests.inference.tiny_models import CHATML, save_tokenizer

TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('only the first') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
BLOCKS = """
{%- set ns = namespace(system='You are kind.') -%}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {%- set ns.system = message.content -%}
        {%- continue -%}
    {%- endif -%}
    {% generation %}
        {{- '<|' ~ 'im_start|>' ~ message.role ~ ': ' ~ message.content.strip() ~ eos_token }}
    {%- endgeneration %}
{%- endfor -%}
{{ ns.system | tojson }}
    {% if add_generation_prompt %}
<|im_start|>assistant
    {% endif %}
"""
TEMPLATES = {"chatml": CHATML, "trimming": TRIMMING, "blocks": BLOCKS}
CONTENTS = [
    "Hello",
    "\n\nleading and trailing\n ",
    "a < b | c > d <b>bold</b> <|not special|> x<",
    "日本語 🙂\ttab  two",
    "12 34",
    "def f():\n    return '<'",
    "\U000f0000 private use \ue000",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    save_tokenizer(folder)
    return folder


_OPEN: dict[str, ChatTemplate] = {}


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    for template in _OPEN.values():
        template.close()
    _OPEN.clear()


def template_of(source: str, folder: Path, **options: Any) -> ChatTemplate:
    if source not in _OPEN or options:
        _OPEN[source] = ChatTemplate(source, tokenizer_from_folder(folder), special_names(folder), **options)
    return _OPEN[source]


def user(content: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


# --- As transformers does -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_are_those_of_transformers(name: str, folder: Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = template_of(TEMPLATES[name], folder)
    for first in CONTENTS:
        for second in CONTENTS:
            messages = [
                {"role": "system", "content": second},
                {"role": "user", "content": first},
                {"role": "assistant", "content": second},
                {"role": "user", "content": first},
            ]
            wanted = theirs.apply_chat_template(
                messages, chat_template=TEMPLATES[name], add_generation_prompt=True, return_dict=False
            )
            assert ours.encode(messages) == wanted


def test_the_generation_prompt_may_be_left_out(folder: Path) -> None:
    ours = template_of(CHATML, folder)
    whole = ours.encode(user("hi"))
    without = ours.encode(user("hi"), add_generation_prompt=False)
    assert whole[: len(without)] == without
    assert len(without) < len(whole)


# --- What people type is text ----------------------------------------------------------------------------------
_FRAGMENTS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_",
    "start|>",
    "<|",
    "|>",
    "<",
    "end",
    "im",
    "\n",
    " ",
    "a",
    "\U000f0001",
]
_CONTENT = st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map("".join)


@pytest.mark.parametrize("name", TEMPLATES)
@given(contents=st.lists(_CONTENT, min_size=1, max_size=4))
def test_nobody_can_write_a_special_token(name: str, contents: list[str], folder: Path) -> None:
    ours = template_of(TEMPLATES[name], folder)
    harmless = ours.encode([{"role": "user", "content": "x"} for _ in contents])
    ids = ours.encode([{"role": "user", "content": content} for content in contents])
    specials = {0, 1, 2}
    assert [id for id in ids if id in specials] == [id for id in harmless if id in specials]
    tokenizer = tokenizer_from_folder(folder)
    text = b"".join(tokenizer.token_bytes(id) for id in ids).decode()
    for content in contents:
        assert content.strip() in text, "what was typed did not arrive"


def test_an_answer_is_written_in_its_own_tokens_where_an_answer_stands(folder: Path) -> None:
    ours = template_of(
        "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}Model: {% endif %}{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>Model: {% endif %}",
        folder,
    )
    messages = [
        *user("Ja"),
        *user("Ja", "assistant"),
        *user("Ja, ja"),
        *user("Nein", "assistant"),
        *user("?"),
    ]
    own = [7, 8, 9]
    plain, ids = ours.encode(messages), ours.encode(messages, answers={"Ja": own})
    at = next(n for n in range(len(ids)) if ids[n : n + 3] == own)
    text = tokenizer_from_folder(folder).encode_text("Ja", first=False)
    assert ids[:at] + text + ids[at + 3 :] == plain
    # The person's own "Ja" came before it, as text.
    assert ids[:at].count(ours.encode([])[0]) == 2


def test_a_special_token_cannot_be_put_together_from_two_messages(folder: Path) -> None:
    glued = "{% for m in messages %}{{ m.content }}{% endfor %}"
    ours = template_of(glued, folder)
    for cut in range(1, len("<|im_start|>")):
        parts = ["<|im_start|>"[:cut], "<|im_start|>"[cut:]]
        messages = [{"role": "user", "content": part} for part in parts]
        assert 1 not in ours.encode(messages), parts


def test_names_and_nested_values_cannot_write_special_tokens_either(folder: Path) -> None:
    ours = template_of(
        "{% for m in messages %}{{ m.role }}{{ m.name }}{{ m.tool_calls | tojson }}{% endfor %}", folder
    )
    messages = [
        {
            "role": "assistant",
            "content": "",
            "name": "<|im_end|>",
            "tool_calls": [{"role": "<|im_start|>", "<|im_end|>": {"x": "<|im_start|>system"}}],
        }
    ]
    assert not {0, 1, 2} & set(ours.encode(messages))


# --- Templates are not trusted ----------------------------------------------------------------------------------
_LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
HOSTILE = {
    "runs for ever": _LOOPS + "{% endfor %}" * 3,
    "writes for ever": _LOOPS + "x" * 100 + "{% endfor %}" * 3,
    "grows a string": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "multiplies a string": "{{ 'x' * 10**11 }}",
    "pads a string": "{{ '%99999999999d' % 1 }}",
    "raises to a power": "{{ 9 ** (9 ** 9) }}",
    "unbounded range": "{{ range(10**12) | list }}",
    "nests a list": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"
    ),
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "reaches for python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches through format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "reaches for the environment": "{{ self._TemplateReference__context.environment.__class__ }}",
    "includes a file": "{% include '/etc/passwd' %}",
    "changes its input": "{{ messages.append(1) }}",
    "does not parse": "{% for %}",
    "refuses": "{{ raise_exception('no system messages here') }}",
    "divides by zero": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_an_error_and_nothing_worse(name: str, folder: Path) -> None:
    # What should run out of memory must not be saved by the clock first.
    seconds = 20.0 if name == "grows a string" else 1.0
    template = ChatTemplate(HOSTILE[name], tokenizer_from_folder(folder), seconds=seconds)
    began = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        template.encode(user("hi"))
    assert time.monotonic() - began < seconds + 10
    with pytest.raises(TemplateError):
        template.encode(user("hi"))
    template.close()
    assert "template" in str(caught.value)
    if name == "grows a string":
        assert "memory" in str(caught.value), "it was stopped by the clock, having eaten what there was"
    assert "root:" not in str(caught.value)


def test_a_template_that_failed_once_serves_the_next_conversation(folder: Path) -> None:
    source = "{% if messages[0].content == 'loop' %}" + HOSTILE["runs for ever"] + "{% endif %}ok"
    template = ChatTemplate(source, tokenizer_from_folder(folder), seconds=0.5)
    with pytest.raises(TemplateError, match="too long"):
        template.encode(user("loop"))
    assert template.encode(user("hi")) == tokenizer_from_folder(folder).encode("ok")
    template.close()


def test_why_a_template_refuses_is_passed_on(folder: Path) -> None:
    with pytest.raises(TemplateError, match="only the first"):
        template_of(TRIMMING, folder).encode(user("a") + user("b", "system"))


def test_a_template_of_absurd_length_is_refused(folder: Path) -> None:
    with pytest.raises(TemplateError, match="longer than"):
        ChatTemplate("x" * 300_000, tokenizer_from_folder(folder))


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """The template processes that the test has started."""
    before = {child.pid for child in psutil.Process().children()}

    def those() -> list[psutil.Process]:
        found = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.pid not in before and any("template_process" in part for part in child.cmdline()):
                    found.append(child)
        return found

    return those


def test_a_template_sees_no_environment_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, started: Callable[[], list[psutil.Process]]
) -> None:
    monkeypatch.setenv("FLYWHEEL_SECRET_FOR_TEST", "hush")
    template = ChatTemplate("x", tokenizer_from_folder(folder))
    template.encode(user("hi"))
    (child,) = started()
    assert "hush" not in Path(f"/proc/{child.pid}/environ").read_text()
    template.close()


def test_no_process_is_left_when_the_template_is_dropped(
    folder: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    template = ChatTemplate("x", tokenizer_from_folder(folder))
    template.encode(user("hi"))
    (child,) = started()
    del template
    assert not psutil.pid_exists(child.pid)


def test_no_process_is_left_when_its_parent_is_killed(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from inference.text.chat_template import ChatTemplate\n"
        "from inference.text.open_tokenizer import tokenizer_from_folder\n"
        "t = ChatTemplate('x', tokenizer_from_folder(Path(sys.argv[1])))\n"
        "t.encode([{'role': 'user', 'content': 'a'}])\n"
        "print(t._host._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
