"""One training job: a program of torch alone, `python -m training.trainer SPEC.json`. Knows no Django, Celery or Redis.

It computes with the engine's own model definition and reads text as the engine does: what is trained is what is served.
"""

import inference.engine  # noqa: F401 - sets how threads wait for each other, which has to be done before torch is there
