"""`python -m inference.engine generate`: works alone, prints what it promises, fails in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import chat, run

ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: str, home: Path | None = None, said: str = "") -> subprocess.CompletedProcess[str]:
    # Neither Django's settings nor a broker: the engine alone.
    environment = {"PATH": os.environ["PATH"], "FLYWHEEL_HOME": str(home or "/nonexistent")}
    return subprocess.run(
        [sys.executable, "-m", "inference.engine", *arguments],
        cwd=ROOT, env=environment, input=said, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_json_is_one_line_with_the_text_its_tokens_and_why_it_ended(tiny_folder: Path) -> None:
    arguments = ("--prompt", "Hello fox", "--greedy", "--dtype", "fp32", "--max-tokens", "12")
    done = command("generate", "--model", str(tiny_folder), *arguments, "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    printed = json.loads(done.stdout)
    sampling = SamplingParams(temperature=0, max_tokens=12)
    (answer,) = run(load_engine(tiny_folder, dtype="fp32"), chat("Hello fox", sampling=sampling))
    assert printed == {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
    }
    plain = command("generate", "--model", str(tiny_folder), *arguments)
    assert plain.stdout == answer.text + "\n"


def test_a_catalog_name_is_looked_up_in_the_models_folder(demo_model_folder: Path) -> None:
    home = demo_model_folder.parent.parent
    done = command(
        "generate", "--model", "smollm2-135m-instruct", "--prompt", "What is the capital of France?",
        "--greedy", "--dtype", "fp32", "--json", home=home,
    )  # fmt: skip
    printed = json.loads(done.stdout)
    assert "Paris" in printed["text"]
    assert printed["finish_reason"] == "stop"
    assert 2 not in printed["token_ids"], "the end token is not among them"


def test_chat_remembers_what_was_said(tiny_folder: Path) -> None:
    done = command("chat", "--model", str(tiny_folder), "--greedy", "--max-tokens", "4", said="hi\n\nagain\n")
    assert done.returncode == 0
    assert done.stdout.count("> ") == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--model", "no-such-model", "--prompt", "x"], "no-such-model"),
        (
            ["generate", "--model", "smollm2-135m-instruct", "--prompt", "x"],
            "models pull smollm2-135m-instruct",
        ),
        (["generate", "--model", "../../etc/passwd", "--prompt", "x"], "passwd"),
        (["generate", "--model", __file__, "--prompt", "x"], "not a GGUF file"),
        (["generate", "--model", "x"], "--prompt"),
        (["generate", "--model", "x", "--prompt", "x", "--max-tokens", "0"], "at least 1"),
        (["generate", "--model", "x", "--prompt", "x", "--max-tokens", "many"], "--max-tokens"),
        (["generate", "--model", "x", "--prompt", "x", "--dtype", "fp4"], "fp4"),
        (["generate", "--model", "TINY", "--prompt", "word " * 3000], "tokens too long"),
        ([], "required"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(arguments: list[str], says: str, tiny_folder: Path) -> None:
    done = command(*[str(tiny_folder) if part == "TINY" else part for part in arguments])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
