"""The real engine with every reply as long as the benchmark wants: what it says ends no measurement early."""

from __future__ import annotations

from inference.engine.interface import Admission, Engine, Request
from inference.models import ServedModel
from inference.worker import load_engine
from tests.load.engine_alone import fixed_length


def load(model: ServedModel) -> Engine:
    engine = load_engine(model)
    submit = engine.submit

    def submit_fixed(request: Request) -> Admission:
        # Titles keep their few tokens.
        return submit(request if request.sampling.stop else fixed_length(request))

    engine.submit = submit_fixed  # type: ignore[method-assign]
    return engine
