"""What of a model has to do with text is opened without its weights, and is what the engine has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from inference.engine.loaded_model import load_model
from inference.formats.errors import ModelFileError
from inference.text.open_model import open_text_model
from tests.inference.tiny_models import save_gguf, save_model

_CHAT = [{"role": "user", "content": "Hello there"}]


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_it_is_what_the_engine_has(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        path = tmp_path
        save_model(path)
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    else:
        path = tmp_path / "model.gguf"
        save_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    loaded, opened = load_model(path, dtype="fp32"), open_text_model(path)
    assert opened.end_token_ids == loaded.end_token_ids
    assert opened.context_length == loaded.config.context_length
    assert opened.tokenizer.vocab_size == loaded.tokenizer.vocab_size
    assert opened.tokenizer.encode("Hello") == loaded.tokenizer.encode("Hello")
    assert (opened.template is None) == (loaded.template is None)
    for template in (opened.template, loaded.template):
        if template is not None:
            assert template.encode(_CHAT) == opened.template.encode(_CHAT)  # type: ignore[union-attr]
            template.close()


def test_a_folder_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        open_text_model(tmp_path)


def test_it_needs_no_torch() -> None:
    code = "import inference.text.open_model, sys; print('torch' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert said.stdout == "False\n"
