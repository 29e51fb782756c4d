"""What an inference worker counts. Each line costs the engine thread a few microseconds at most, and none waits.

Names and labels: docs/monitoring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from django.conf import settings
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from inference.engine.interface import EngineFigures
from webapp.core.metrics import registry

_tokens = Counter(
    "flywheel_tokens",
    "Tokens of prompts that were admitted, and tokens that were answered.",
    ["kind"],
    registry=registry,
)
prompt_tokens, completion_tokens = _tokens.labels("prompt"), _tokens.labels("completion")
time_to_first_token = Histogram(
    "flywheel_time_to_first_token_seconds",
    "From the moment a generation was asked for to its first token, by what it is for.",
    ["purpose"],
    registry=registry,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120),
)
batch_size = Histogram(
    "flywheel_batch_size",
    "Sequences that an engine's step added to.",
    registry=registry,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
step_seconds = Histogram(
    "flywheel_engine_step_seconds",
    "Time of an engine's step.",
    registry=registry,
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)


def collector(engines: Callable[[], tuple[EngineFigures, dict[str, int]]]) -> Callable[[], Iterator[Metric]]:
    """Of the process's engines, as `Engines.figures` tells of them."""

    def collect() -> Iterator[Metric]:
        figures, held = engines()
        yield GaugeMetricFamily(
            "flywheel_generation_places",
            "Generations a worker takes at once: INFERENCE_MAX_RUNNING.",
            value=settings.INFERENCE_MAX_RUNNING,
        )
        blocks = GaugeMetricFamily(
            "flywheel_kv_blocks",
            "Blocks of 16 tokens for keys and values: used, kept in case they are asked for again, or empty.",
            labels=["state"],
        )
        blocks.add_metric(["used"], figures.kv_blocks_used)
        blocks.add_metric(["kept"], figures.kv_blocks_kept)
        empty = figures.kv_blocks - figures.kv_blocks_used - figures.kv_blocks_kept
        blocks.add_metric(["empty"], max(empty, 0))  # a step may have come between two of them
        yield blocks
        prefix = CounterMetricFamily(
            "flywheel_prefix_cache_tokens",
            "Tokens known at admission: found computed already (hit), or not.",
            labels=["result"],
        )
        prefix.add_metric(["hit"], figures.prefix_tokens_reused)
        prefix.add_metric(["miss"], figures.prefix_tokens - figures.prefix_tokens_reused)
        yield prefix
        yield GaugeMetricFamily(
            "flywheel_adapters_loaded", "Adapters beside the weights.", value=figures.adapters
        )
        yield GaugeMetricFamily("flywheel_models_loaded", "Models that have an engine.", value=len(held))
        generations = GaugeMetricFamily(
            "flywheel_model_generations", "Generations that a loaded model's engine has.", labels=["model"]
        )
        for model, count in held.items():
            generations.add_metric([model], count)
        yield generations

    return collect
