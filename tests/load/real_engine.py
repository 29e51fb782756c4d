"""The real engine with every reply as long as the benchmark wants: what it says ends no measurement early."""

from __future__ import annotations

from django.conf import settings

from inference.engine.interface import Admission, Engine, Request
from inference.models import ServedModel
from tests.load.engine_alone import fixed_length, ready_engine


def load(model: ServedModel, *, beside: object = None) -> Engine:
    engine = ready_engine(settings.MODELS_DIR / model.path)
    submit = engine.submit

    def submit_fixed(request: Request) -> Admission:
        # Titles keep their few tokens.
        return submit(request if request.sampling.stop else fixed_length(request))

    engine.submit = submit_fixed  # type: ignore[method-assign]
    return engine
