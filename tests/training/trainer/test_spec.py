"""A spec that nothing useful can come of is refused, and what it may be is said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from training.trainer.failures import TrainingFailure
from training.trainer.spec import RANGES, read_spec


@pytest.mark.parametrize("knob", sorted(RANGES))
def test_a_knob_that_is_too_small_is_refused_with_its_range(knob: str, tmp_path: Path) -> None:
    low, high = RANGES[knob]
    # The next whole number; of others something close.
    value = low - 1 if isinstance(low, int) else low / 2 or -0.001
    name = knob.removeprefix("lora.")
    spec = {"base": "base", "dataset": "data", "output": "out"}
    path = tmp_path / "spec.json"
    path.write_bytes(msgspec.json.encode(spec | ({name: value} if name == knob else {"lora": {name: value}})))
    with pytest.raises(TrainingFailure) as refused:
        read_spec(path)
    assert refused.value.code == "spec"
    assert f"{knob} is {value:g} and may be from {low:g} to {high:g}" in refused.value.message
