"""Fixtures of the inference tests."""

# Before transformers imports torch: it decides how torch's threads wait.
import inference.engine  # noqa: F401
