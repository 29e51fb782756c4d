"""Compiled layers: the same tokens, kept for the next process, and no harm where nothing can be compiled."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from django.conf import settings
from transformers import PreTrainedModel

from inference.engine import compiled
from inference.engine.compiled import ADAPTERS, FORMS, CompiledLayers
from inference.engine.config_folder import config_from_folder
from inference.engine.engine import TorchEngine
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import ask, assert_greedy, run
from tests.inference.engine.test_exactness_tiny import SHAPES
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model

LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
# Gemma 3 has of everything: windows, two rotary embeddings, norms after and of heads.
SHAPE = "gemma3"
# Of as many states of the source, 7 MB each.
MOST_KEPT = 8


@pytest.fixture(scope="module", autouse=True)
def _not_the_last_in_line() -> Iterator[None]:
    """A compiler that gives way would wait for all the tests beside it."""
    with mock.patch.object(compiled, "NICE", 0):
        yield


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("gemma")
    config, options = SHAPES[SHAPE]
    return folder, save_model(folder, config, **options)


@pytest.fixture(scope="module")
def kept(gemma: tuple[Path, PreTrainedModel]) -> Path:
    """A folder with the compiled layers of that model: a minute and a half's work, done again where anything is another
    that the code depends on, the compiler's and the engine's source among it."""
    folder: Path = settings.MODEL_CACHE / "compiled" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = compiling(gemma[0], folder)
        assert engine.compiled is not None
        assert engine.compiled.wait()
        engine.close()
        for old in sorted(folder.iterdir(), key=lambda made: made.stat().st_mtime)[:-MOST_KEPT]:
            shutil.rmtree(old)
    return folder


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")


def mapped_code() -> set[Path]:
    """Compiled layers this process has mapped, as it runs them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if ".wrapper.so" in line}


def compiling(model: Path, kept: Path, dtype: str = "fp32") -> TorchEngine:
    # Guessed tokens would make it fewer steps than tokens.
    return load_engine(model, dtype=dtype, compiled=kept, speculation=False)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("together", [1, 2, 6])
def test_what_one_process_compiled_another_runs_and_gives_the_tokens_of_transformers(
    together: int, kept: Path, gemma: tuple[Path, PreTrainedModel]
) -> None:
    model, reference = gemma
    engine = compiling(model, kept)
    assert engine.compiled is not None
    assert engine.compiled.wait()
    requests = [ask("The quick brown fox " * 9 + str(n), id=str(n), sampling=LONG) for n in range(together)]
    with mock.patch.object(engine.compiled, "over", wraps=engine.compiled.over) as over:
        answers = run(engine, *requests)
    assert over.call_count >= 39
    for request, answer in zip(requests, answers, strict=True):
        assert len(answer.token_ids) == 40
        assert_greedy(reference, engine.encode_prompt(request), answer.token_ids)
    engine.close()


@pytest.mark.usefixtures("no_compiler")
def test_code_is_run_where_it_is_kept_and_not_from_a_temporary_folder(
    kept: Path, gemma: tuple[Path, PreTrainedModel]
) -> None:
    """Which a container may have without the right to run anything there."""
    engine = compiling(gemma[0], kept)
    assert engine.compiled is not None
    assert engine.compiled.wait()
    assert {path.relative_to(kept).parts[1] for path in mapped_code()} == {*FORMS, ADAPTERS}
    engine.close()


@pytest.mark.usefixtures("no_compiler")
def test_adapters_and_drafts_give_the_tokens_they_give_without_a_compiler(
    kept: Path, gemma: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    model, _ = gemma
    save_adapter(tmp_path, config_from_folder(model), strength=0.5)
    answers = []
    for folder in (kept, None):
        engine = load_engine(model, dtype="fp32", compiled=folder)
        if engine.compiled is not None:
            assert engine.compiled.wait()
        engine.load_adapter("own", tmp_path)
        alone = run(engine, ask("one two three " * 9, sampling=LONG, adapter="own"))
        requests = [
            ask(f"fox {n} " * 20, id=str(n), sampling=LONG, adapter="own" * (n % 2)) for n in range(5)
        ]
        answers.append([answer.token_ids for answer in (*alone, *run(engine, *requests))])
        assert engine.lookup_use.drafted > 0
        engine.close()
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("no_compiler")
def test_sequences_of_very_different_lengths_run_as_they_are(
    kept: Path, gemma: tuple[Path, PreTrainedModel]
) -> None:
    model, reference = gemma
    engine = compiling(model, kept)
    assert engine.compiled is not None
    assert engine.compiled.wait()
    requests = [ask("fox " * length, id=str(length), sampling=LONG) for length in (1, 2, 3, 150)]
    for request, answer in zip(requests, run(engine, *requests), strict=True):
        assert_greedy(reference, engine.encode_prompt(request), answer.token_ids)
    engine.close()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_answers_come_all_the_same(
    gemma: tuple[Path, PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, reference = gemma
    # By a process that was killed yesterday; by releases of last week, and of two months ago.
    for name, days in (("tmp_left", 2), ("b" * 64, 7), ("a" * 64, 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.cpp").touch()
        os.utime(tmp_path / name, (time.time() - days * 24 * 3600,) * 2)
    engine = compiling(model, tmp_path)
    request = ask("The quick brown fox", sampling=LONG)
    (before,) = run(engine, request)
    assert engine.compiled is not None
    assert not engine.compiled.wait()
    (after,) = run(engine, request)
    assert before.token_ids == after.token_ids
    assert_greedy(reference, engine.encode_prompt(request), after.token_ids)
    assert "stays uncompiled" in caplog.text
    assert [left.name for left in tmp_path.iterdir()] == ["b" * 64]
    engine.close()


def test_an_engine_that_is_closed_leaves_no_compiler_behind(
    gemma: tuple[Path, PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = compiling(gemma[0], tmp_path)
    engine.close()
    assert isinstance(engine.compiled, CompiledLayers)
    assert not engine.compiled.wait()
    assert not caplog.text
    assert not any(tmp_path.iterdir())
