"""What lower precision costs: perplexity in bf16 and int8 against fp32, on the same 50,000 tokens of fixed text.

The text is Python's own help on its language, which every installation has (topics by name).
"""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics
from unittest.mock import patch

from inference.engine import scheduler
from inference.engine.engine import TorchEngine
from inference.engine.loader import load_engine
from inference.engine.perplexity import perplexity
from tests.demo_model import demo_model
from tests.load.bench import Row

LIMIT = 1.02
# A little more than 50,000 tokens of the demo model's vocabulary, scored by hundreds of rows at a time. Few rows, for
# which some products have another form, are slow: a tenth of the text.
_CHARACTERS = 215_000
MANY_ROWS, FEW_ROWS = 512, 4


def fixed_text(characters: int) -> str:
    return "\n".join(topics[name] for name in sorted(topics))[:characters]


def perplexities(engine: TorchEngine, texts: dict[int, str]) -> dict[int, float]:
    """Of each text, scored by so many rows at a time."""
    found: dict[int, float] = {}
    for rows, text in texts.items():
        with patch.object(scheduler, "_CHUNK_ALONE", rows):
            found[rows] = perplexity(engine, text, 512).perplexity
    return found


def _of_demo(dtype: str, texts: dict[int, str]) -> dict[int, float]:
    engine = load_engine(demo_model(), dtype=dtype, max_running=1, kv_tokens=1024)
    found = perplexities(engine, texts)
    engine.close()
    return found


def against_fp32() -> Iterator[Row]:
    """One row for each precision, of that form of its products that does worse."""
    text = fixed_text(_CHARACTERS)
    texts = {MANY_ROWS: text, FEW_ROWS: text[: _CHARACTERS // 10]}
    exact = _of_demo("fp32", texts)
    for dtype in ("bf16", "int8"):
        found = _of_demo(dtype, texts)
        rows = max(texts, key=lambda rows: found[rows] / exact[rows])
        ratio = exact[rows] / found[rows]
        yield Row(f"engine.ppl.{dtype}", found[rows], exact[rows], "perplexity", ratio, 1 / LIMIT)
