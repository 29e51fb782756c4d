"""Layers as machine code: torch's ahead-of-time compiler, in the background. Knows nothing of requests.

Run as it is, a layer is some forty operators, and in a step of few tokens calling them takes longer than their
arithmetic. A layer is compiled once for all of a model's, by a process of its own (`inference.engine.compiler`), and
kept in a folder. Until that is done, and where there is no C++ compiler, layers run as they are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import torch

# What torch.export and AOTInductor make is run without importing the compiler: that would take 150 MB.
from torch._C._aoti import AOTIModelPackageLoader

from inference.engine.attention import PagedAttention
from inference.engine.config import ModelConfig
from inference.engine.linear import INT4_ROWS
from inference.engine.model import Layer, LlamaModel, RunLayer, Turns

logger = logging.getLogger(__name__)

# By the number of sequences: one is a constant to the compiler, and few use 4-bit products where there are any.
FORMS = {"one": (1, 1), "few": (2, INT4_ROWS), "many": (INT4_ROWS + 1, 4096)}


class CompilerJob(msgspec.Struct, frozen=True):
    """All that the code of a layer depends on, but this machine and our own source."""

    config: ModelConfig
    kind: str
    tensors: list[str]  # names of the layer's parameters and buffers, in the order it takes them in
    folder: str  # for the compiled forms, each FORM.pt2


class CompiledLayers:
    """Every layer of a model, for steps of one token for each sequence."""

    def __init__(self, model: LlamaModel, folder: Path) -> None:
        """`folder` is where compiled layers are kept, of this and other models."""
        self._model, self._folder = model, folder
        self._tensors = [[*_tensors(layer).values()] for layer in model.layers]
        self._forms: list[dict[str, AOTIModelPackageLoader]] = []  # of each layer
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.ready = False
        self._thread = threading.Thread(target=self._prepare, name="compile", daemon=True)
        self._thread.start()

    def wait(self) -> bool:
        """Until it is known whether they can be used; answers that."""
        self._thread.join()
        return self.ready

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def over(self, attend: PagedAttention) -> RunLayer:
        """For a uniform step: runs a layer with the keys and values that `attend` would read and write."""
        cache, (singles,) = attend.cache, attend.singles
        form = next(name for name, (_, most) in FORMS.items() if len(singles.tables) <= most)

        def run(layer: Layer, x: torch.Tensor, turns: Turns) -> torch.Tensor:
            mask = singles.masks[cache.layer_windows[layer.index]]
            blocks = cache.layers[layer.index]
            given = [x, *turns[layer.rotary], blocks, attend.slots, singles.tables, mask]
            out: torch.Tensor = self._forms[layer.index][form].run([*given, *self._tensors[layer.index]])[0]
            return out

        return run

    def _prepare(self) -> None:
        try:
            loaded: dict[tuple[str, ...], dict[str, AOTIModelPackageLoader]] = {}
            for layer in self._model.layers:
                names = tuple(_tensors(layer))
                if names not in loaded:
                    folder = self._compiled(list(names))
                    loaded[names] = {form: _load(folder / f"{form}.pt2") for form in FORMS}
                self._forms.append(loaded[names])
        # Whatever the compiler, or the compiler's compiler, has to say: nobody's answer depends on it.
        except Exception as error:
            if not self._closed:
                logger.warning("The model stays uncompiled, and slower for it: %s", error)
        else:
            self.ready = True

    def _compiled(self, tensors: list[str]) -> Path:
        """The folder with the forms of a layer that has these tensors."""
        job = CompilerJob(self._model.config, self._model.kind, tensors, "")
        done = self._folder / _key(job)
        if not done.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                made = Path(scratch) / "made"
                self._compile(msgspec.structs.replace(job, folder=str(made)), scratch)
                try:
                    made.rename(done)
                except OSError:
                    # Another process was faster.
                    if not done.exists():
                        raise
        return done

    def _compile(self, job: CompilerJob, scratch: str) -> None:
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": scratch, "TMPDIR": scratch}
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "inference.engine.compiler"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
            )
            self._process = process
            if self._closed:
                process.kill()
            assert process.stdin is not None
            # It stays open: the compiler ends when it closes, and so with us, however we end.
            with process.stdin as pipe:
                pipe.write(msgspec.json.encode(job) + b"\n")
                pipe.flush()
                status = process.wait()
            if status:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(lines[-1] if lines else f"the compiler ended with status {status}.")


def _tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def _load(path: Path) -> AOTIModelPackageLoader:
    # "model" is the name packages have inside; one caller at a time; on the CPU.
    return AOTIModelPackageLoader(str(path), "model", True, 1, -1)


def _key(job: CompilerJob) -> str:
    """Names the code that a job makes on this machine."""
    digest = hashlib.sha256(msgspec.json.encode([job, str(torch.__version__), _processor()]))
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    """The code is for exactly this processor: another may lack an instruction."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.uname().machine
    return next((line for line in lines if line.startswith(("flags", "Features"))), os.uname().machine)
