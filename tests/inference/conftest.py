"""Settings of the inference tests."""

from hypothesis import settings

# Before transformers imports torch: it decides how torch's threads wait.
import inference.engine  # noqa: F401

# How long an example takes says more about the machine than about the code.
settings.register_profile("inference", deadline=None)
settings.load_profile("inference")
