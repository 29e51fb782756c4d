"""`python -m inference.engine`: works alone, prints what it promises, fails in one line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference.engine.__main__ import main
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import chat, run

ROOT = Path(__file__).resolve().parents[3]


def process(
    *arguments: str, home: Path = Path("/nonexistent"), said: str = ""
) -> subprocess.CompletedProcess[str]:
    """As people call it. Neither Django's settings nor a broker: the engine alone."""
    return subprocess.run(
        [sys.executable, "-m", "inference.engine", *arguments],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "FLYWHEEL_HOME": str(home)},
        input=said, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def command(
    *arguments: str, home: Path = Path("/nonexistent"), said: str = ""
) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has torch already: importing it takes longer than all that is asked here."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setenv("FLYWHEEL_HOME", str(home))
        patch.setattr(sys, "stdin", io.StringIO(said))
        try:
            status: Any = main([*arguments])
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess([*arguments], status, out.getvalue(), errors.getvalue())


def test_json_is_one_line_with_the_text_its_tokens_and_why_it_ended(tiny_folder: Path) -> None:
    arguments = ("--prompt", "Hello fox", "--greedy", "--dtype", "fp32", "--max-tokens", "12")
    done = process("generate", "--model", str(tiny_folder), *arguments, "--json")
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


@pytest.mark.parametrize("window", [40, 512])
def test_perplexity_is_that_of_transformers_loss(window: int, tiny_folder: Path, tmp_path: Path) -> None:
    text = "The quick brown fox naïvely jumps over 12 lazy dogs.\n" * 12
    (tmp_path / "text").write_text(text)
    arguments = ("--text", str(tmp_path / "text"), "--dtype", "fp32", "--window", str(window))
    done = command("ppl", "--model", str(tiny_folder), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    reference = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    engine = load_engine(tiny_folder, dtype="fp32")
    ids = engine.tokenizer.encode(text)
    engine.close()
    loss, predicted = 0.0, 0
    for start in range(0, len(ids), window):
        part = torch.tensor([ids[start : start + window]])
        with torch.inference_mode():
            loss += float(reference(part, labels=part).loss) * (part.shape[1] - 1)
        predicted += part.shape[1] - 1
    said = done.stdout.split()
    assert math.log(float(said[1])) == pytest.approx(loss / predicted, abs=1e-4)
    assert done.stdout.endswith(f"of {predicted} tokens in windows of {window}\n")


BENCH = ("--batch", "1,3", "--prompt-tokens", "20", "--max-tokens", "6", "--dtype", "fp32", "--no-compile")


def test_bench_measures_each_batch_and_prints_one_line_of_json(tiny_folder: Path) -> None:
    done = command("bench", "--model", str(tiny_folder), *BENCH, "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    printed = json.loads(done.stdout)
    assert printed["dtype"] == "fp32"
    assert list(printed["batches"]) == ["1", "3"]
    for batch, figures in printed["batches"].items():
        assert figures["batch"] == int(batch)
        assert 0 < figures["outside"] < 1
        assert min(figures["decode"], figures["prefill"], figures["first_token_ms"]) > 0


def test_bench_prints_a_table_with_a_line_for_each_batch(tiny_folder: Path) -> None:
    done = command("bench", "--model", str(tiny_folder), *BENCH)
    assert (done.returncode, done.stderr) == (0, "")
    title, head, *rows = done.stdout.splitlines()
    assert title.endswith("in fp32")
    assert "outside the forward pass" in head
    assert [row.split()[0] for row in rows] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ppl", "--model", "TINY", "--text", "/nonexistent/text"], "/nonexistent/text cannot be read"),
        (["ppl", "--model", "TINY", "--text", "BYTES"], "not a text in UTF-8"),
        (["ppl", "--model", "TINY", "--text", __file__, "--window", "1024"], "takes 2 to 1023"),
        (["ppl", "--model", "TINY", "--text", "SHORT"], "too short"),
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
        (["bench", "--model", "x", "--batch", "1,many"], "at least 1"),
        (["bench", "--model", "TINY", "--prompt-tokens", "2000"], "1024"),
        (
            ["bench", "--model", "TINY", "--max-tokens", "1", "--batch", "1", "--json", "--no-compile"],
            "longer answers",
        ),
        ([], "required"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(
    arguments: list[str], says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "short").write_text("a")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    named = {"TINY": str(tiny_folder), "SHORT": str(tmp_path / "short"), "BYTES": str(tmp_path / "bytes")}
    done = command(*[named.get(part, part) for part in arguments])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_an_error_after_the_model_was_loaded_ends_the_process_with_it(tiny_folder: Path) -> None:
    done = process("generate", "--model", str(tiny_folder), "--prompt", "word " * 3000)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "tokens too long" in done.stderr
