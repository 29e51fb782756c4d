"""Every environment variable the site reads, with its place in README.md's table. Knows nothing of their values.

A test compares this list with the code and with the README, so none is forgotten in any of the three.
"""

from __future__ import annotations

VARIABLES: tuple[str, ...] = (
    "PORT",
    "HOST",
    "FLYWHEEL_HOME",
    "FLYWHEEL_WHEEL_CACHE",
    "FLYWHEEL_PULSE",
    "SITE_URL",
    "SECRET_KEY",
    "ALLOWED_HOSTS",
    "DATABASE_URL",
    "REDIS_URL",
    "EMAIL_URL",
    "EMAIL_FROM",
    "EMAIL_VERIFICATION",
    "SIGNUP",
    "OIDC_ISSUER",
    "OIDC_CLIENT_ID",
    "OIDC_CLIENT_SECRET",
    "OIDC_NAME",
    "DEBUG",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "METRICS_TOKEN",
    "WEB_PROCESSES",
    "OUTBOUND_ALLOW",
    "LIMIT_REQUESTS_PER_MINUTE",
    "LIMIT_TOKENS_PER_MINUTE",
    "LIMIT_CONCURRENT_STREAMS",
    "INFERENCE_ENGINE",
    "INFERENCE_DTYPE",
    "INFERENCE_DEVICE",
    "INFERENCE_COMPILE",
    "INFERENCE_LEASE_SECONDS",
    "INFERENCE_MAX_RUNNING",
    "INFERENCE_MAX_MODELS",
    "INFERENCE_MAX_QUEUED",
    "INFERENCE_DEADLINE_SECONDS",
    "TRAINING_THREADS",
    "TRAINING_PROCESSES",
    "TRAINING_DEVICE",
    "API_MAX_UPLOAD_MB",
)
