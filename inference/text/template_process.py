"""Renders one model's chat template, in a process of its own. Knows nothing of tokens, models or this project.

A chat template is a program that came with a model file, so it is run where it can do no harm: Jinja's immutable
sandbox, in a process with an empty environment, little memory and no files to write, which its parent kills
when it takes too long. Run as a script: the first line on stdin is the template's source, every further
line a JSON object of its variables; each is answered with one JSON line, {"text": ...} or {"error": ...}.
A line may also be a list of such objects, which is answered with the list of such answers.
One such line is said before the first question: the interpreter is up.
It ends when stdin does, so it cannot outlive its parent.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser

_MEMORY_BYTES = 512 * 2**20


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant said, for training; here it is just text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(lineno)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=bool(options.get("sort_keys"))
    )


def _now(format: str) -> str:
    return datetime.now().strftime(format)  # noqa: DTZ005 - templates mean the day it is here


def make_environment() -> jinja2.Environment:
    """Jinja as model authors expect it, which is as `transformers` sets it up."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _answer(render: Callable[[dict[str, Any]], str], line: str) -> Any:
    question = json.loads(line)
    if isinstance(question, list):
        return [_safely(_rendered, render, variables) for variables in question]
    return _rendered(render, question)


def _rendered(render: Callable[[dict[str, Any]], str], variables: dict[str, Any]) -> dict[str, str]:
    return {"text": render(variables)}


def _safely(do: Callable[..., Any], *arguments: Any) -> Any:
    """What it answers, or {"error": ...}."""
    try:
        return do(*arguments)
    except MemoryError:
        return {"error": "it needs more memory than a chat template may have"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _compile(source: str) -> Callable[[dict[str, Any]], str]:
    template = make_environment().from_string(source)
    return lambda variables: template.render(**variables)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; the end of stdin is for us.
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    _say({"text": "ready"})
    render: Callable[[dict[str, Any]], str] | None = None
    for line in sys.stdin:
        if render is None:
            try:
                render = _compile(json.loads(line))
                answer: Any = {"text": ""}
            except RecursionError:
                answer = {"error": "it is nested too deeply"}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        else:
            answer = _safely(_answer, render, line)
        _say(answer)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
