"""Layers as machine code: torch's ahead-of-time compiler, in the background. Knows nothing of requests.

Run as it is, a layer is some forty operators: in a step of few tokens calling them takes longer than their arithmetic,
in one of many each goes through memory. All of a layer but its matrix products (and attention, where a step is not of
one token for each sequence) is compiled, once for all layers of a model, by a process of its own
(`inference.engine.compiler`), and kept in a folder. Until that is done, and where there is no C++ compiler, layers run
as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import msgspec
import torch
from torch import nn

# What torch.export and AOTInductor make is run without importing the compiler: that would take 150 MB.
from torch._C._aoti import AOTIModelPackageLoader

from inference.engine.attention import PagedAttention
from inference.engine.config import ModelConfig
from inference.engine.model import Adapt, Layer, LlamaModel, RunLayer, Turns

logger = logging.getLogger(__name__)

# Forms a layer is compiled in, with how many rows it takes: steps of one token for each sequence, which attend in
# compiled code (one row is a form of its own, being a constant to the compiler), and all other steps.
FORMS = {"one": (1, 1), "many": (2, 4096), "mixed": (2, 2**20)}
# Of what adapters add to a product.
ADAPTERS = "adapters"
# Others answer people meanwhile.
NICE = 19
# Seconds: what has been worked at for longer was left by a process that was killed, and what no engine began with for
# longer is of another release, model or processor. It can be made again.
_ABANDONED, _UNUSED = 24 * 3600, 30 * 24 * 3600
PRODUCTS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

# Compiled code calls back by these operators. Products: packed weights, quantised ones and adapters are not for
# compilers. Attention, in mixed steps. `at` numbers the layers of all models in the process.
_library = torch.library.Library("flywheel", "DEF")
_library.define("product(Tensor x, Tensor at, int product, int outputs) -> Tensor")
_library.define("attend(Tensor query, Tensor key, Tensor value, Tensor at) -> Tensor")
_layers: dict[int, _CalledBack] = {}
_numbers = itertools.count()


def _product(x: torch.Tensor, at: torch.Tensor, product: int, outputs: int) -> torch.Tensor:
    return _layers[at.item()].product(product, x)  # type: ignore[index]


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return _layers[at.item()].attend(query, key, value)  # type: ignore[index]


class _CalledBack:
    """What of a layer is not compiled. Called some hundred times a step, so nothing is looked up that need not be."""

    # Of the step that is being computed.
    paged: PagedAttention | None = None
    adapt: Adapt | None = None

    def __init__(self, layer: Layer) -> None:
        self._index = layer.index
        self._forwards = [getattr(layer, name).forward for name in PRODUCTS]

    def product(self, product: int, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._forwards[product](x)
        return y if self.adapt is None else self.adapt(self._index, PRODUCTS[product], x, y)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        assert self.paged is not None
        return self.paged(self._index, query, key, value)


_library.impl("product", _product, "CPU")
_library.impl("attend", _attend, "CPU")
_library.impl("product", lambda x, at, product, outputs: x.new_empty(x.shape[0], outputs), "Meta")
_library.impl("attend", lambda query, key, value, at: query.new_empty(query.shape), "Meta")


class CompilerJob(msgspec.Struct, frozen=True):
    """All that the code of a layer depends on, but this machine and our own source."""

    config: ModelConfig
    kind: str
    folder: str  # for the compiled forms, each a folder FORM


class CompiledLayers:
    """Every layer of a model."""

    def __init__(self, model: LlamaModel, folder: Path) -> None:
        """`folder` is where compiled layers are kept, of this and other models."""
        self._model, self._folder = model, folder
        layers = [layer for layer in model.layers if isinstance(layer, Layer)]
        self._called_back = {next(_numbers): _CalledBack(layer) for layer in layers}
        _layers.update(self._called_back)
        weakref.finalize(self, _forget, [*self._called_back])
        self._given = [
            [torch.tensor(number), *beside_products(layer).values()]
            for number, layer in zip(self._called_back, layers, strict=True)
        ]
        self._forms: dict[str, AOTIModelPackageLoader] = {}
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

    def over(self, attend: PagedAttention, adapt: Adapt | None) -> RunLayer:
        """For one step: runs a layer with the keys and values that `attend` reads and writes."""
        for called_back in self._called_back.values():
            called_back.paged, called_back.adapt = attend, adapt
        rows = len(attend.slots)
        form = self._forms["one" if rows == 1 else "many" if attend.uniform else "mixed"]

        def run(layer: Layer, x: torch.Tensor, turns: Turns) -> torch.Tensor:
            index = layer.index
            given = [x, *turns[layer.rotary], *self._given[index]]
            if attend.uniform:
                (singles,) = attend.singles
                mask = singles.masks[attend.cache.layer_windows[index]]
                given += [attend.cache.layers[index], attend.slots, singles.tables, mask]
            out: torch.Tensor = form.run(given)[0]
            return out

        return run

    def gathered_product(
        self, x: torch.Tensor, y: torch.Tensor, own: torch.Tensor, a: torch.Tensor, bs: list[torch.Tensor]
    ) -> torch.Tensor:
        """See `lora.gathered_product`. It serves every step, uniform or not."""
        out: torch.Tensor = self._forms[ADAPTERS].run([x, y, own, a, *bs])[0]
        return out

    def _prepare(self) -> None:
        try:
            folder = self._compiled()
            # "model" is the name packages have inside; one caller at a time; on the CPU.
            self._forms = {
                form: AOTIModelPackageLoader(str(folder / form), "model", True, 1, -1)
                for form in (*FORMS, ADAPTERS)
            }
        # Whatever the compiler, or the compiler's compiler, has to say: nobody's answer depends on it.
        except Exception as error:
            if not self._closed:
                logger.warning("The model stays uncompiled, and slower for it: %s", error)
        else:
            self.ready = True

    def _compiled(self) -> Path:
        """The folder with the forms."""
        job = CompilerJob(self._model.config, self._model.kind, "")
        done = self._folder / _key(job)
        with contextlib.suppress(FileNotFoundError):
            os.utime(done)
        for left in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - left.stat().st_mtime
                if age > (_ABANDONED if left.name.startswith("tmp") else _UNUSED):
                    shutil.rmtree(left, ignore_errors=True)
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
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
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


def _forget(numbers: list[int]) -> None:
    for number in numbers:
        del _layers[number]


def beside_products(layer: nn.Module) -> dict[str, torch.Tensor]:
    """A layer's parameters but those of its products."""
    named = dict(layer.named_parameters())
    return {name: tensor for name, tensor in named.items() if name.split(".")[0] not in PRODUCTS}


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
