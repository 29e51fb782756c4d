"""Django settings, all of them from environment variables. README.md's table explains each."""

from __future__ import annotations

import logging
import os
from importlib import util
from pathlib import Path
from urllib.parse import urlsplit

from csp.constants import NONE, SELF
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp import coherence, database
from webapp.accounts.single_sign_on import issuer_origin, single_sign_on
from webapp.core import logs, mail, shared_storage
from webapp.core.body_limit import MAX_BODY_BYTES
from webapp.core.public_addresses import Allowed
from webapp.env import Env, generated_secret
from webapp.ops import broker
from webapp.ops.variables import VARIABLES

ROOT = Path(__file__).resolve().parent.parent
# Its page of the API's document needs templates and scripts. As an app it would be imported by every process, of which
# only the web process has an API: 0.15 s of each start, and 14 MB.
NINJA = Path(str(util.find_spec("ninja").origin)).parent  # type: ignore[union-attr]
env = Env()
coherence.refuse_misspelt(os.environ, VARIABLES)

# --- Where state lives -------------------------------------------------------------------------------------
FLYWHEEL_HOME = env.path("FLYWHEEL_HOME", ROOT / "var")
MODELS_DIR = FLYWHEEL_HOME / "models"
_wheels = env.raw("FLYWHEEL_WHEEL_CACHE")
WHEEL_CACHE = Path(_wheels) if _wheels else None
# What other hosts need of it, too: Django's own two, and the shared one where there is one.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    **shared_storage.configuration(env),
}
# Of what this host has fetched from it.
MODEL_CACHE_GB = env.int("MODEL_CACHE_GB", 50, low=1, high=1_000_000)
PORT = env.int("PORT", 8000, low=1, high=65535)
# The address people use, where a proxy stands in front: https://chat.example.org
_site_url = env.url("SITE_URL", ("http", "https"))
SITE_URL_GIVEN = _site_url is not None
SITE_URL = (_site_url or f"http://localhost:{PORT}").rstrip("/")
HTTPS = SITE_URL.startswith("https://")
_public_host, _public_port = urlsplit(SITE_URL).hostname or "", urlsplit(SITE_URL).port

DEBUG = env.bool("DEBUG", False)
SECRET_KEY = env.raw("SECRET_KEY") or generated_secret(FLYWHEEL_HOME / "secret_key")
ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS",
    ("localhost", "127.0.0.1", "[::1]", f"[{_public_host}]" if ":" in _public_host else _public_host),
)
CSRF_TRUSTED_ORIGINS = [SITE_URL]

# --- Applications ------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "csp",
    "django_htmx",
    "django_structlog",
    "webapp.core",
    "webapp.accounts",
    "inference",
    "training",
    "webapp.chat",
    "webapp.api",
    "webapp.ops",
]
MIDDLEWARE = [
    "webapp.core.request_metrics.count_requests",
    "webapp.core.request_ids.carry_request_id",
    "webapp.api.errors.in_openai_shape",
    "webapp.api.door.refuse_at_the_door",
    "webapp.ops.middleware.machine_endpoints",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "webapp.core.middleware.PrivateByDefaultMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.accounts.middleware.SetupMiddleware",
    "webapp.accounts.middleware.LastSeenMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "webapp.accounts.middleware.FormLoginMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "webapp.core.request_log.RequestLogMiddleware",
    "webapp.core.middleware.UserErrorMiddleware",
    "webapp.accounts.middleware.NoWorkspaceMiddleware",
]
ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "webapp" / "templates", NINJA / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.chat.context.shell",
            ]
        },
    }
]

# --- Database ----------------------------------------------------------------------------------------------
DATABASE_URL = (
    env.url("DATABASE_URL", ("sqlite", "postgres", "postgresql")) or f"sqlite:///{FLYWHEEL_HOME}/db.sqlite3"
)
DATABASES = {"default": database.configuration(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


# --- Broker: Celery, channel layer, token log --------------------------------------------------------------
_redis_url = env.url("REDIS_URL", ("redis", "rediss"))
REDIS_GIVEN = _redis_url is not None
REDIS_URL = _redis_url or broker.url(FLYWHEEL_HOME / "broker")
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "webapp.core.channel_layer.SteadyChannelLayer",
        # redis-py 8 would give the idle subscriber a 5 s read timeout and it would die of it.
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "prefix": "flywheel"},
    }
}

CACHES = {
    "default": {
        "BACKEND": "webapp.core.cache.SteadyRedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "fw:cache",
        "OPTIONS": {
            "serializer": "webapp.core.cache.JsonSerializer",
            # A page would rather do without than wait.
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            "retry": Retry(NoBackoff(), 1),
        },
    }
}

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
# Recovery is the row's lease, never the broker's redelivery, so tasks are acknowledged before they run.
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Nor does the broker keep what it has delivered: writing that down and crossing it out again takes a worker longer than
# anything else about a short task. What is lost with a worker is sent again by whoever looks after its row.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "ack_emulation": False,
    "global_keyprefix": "celery:",
    "priority_steps": [0],  # one list in the broker for each queue, where there would be four to listen to
}
# Nothing of ours is said to workers that way: it would only be one more thing to look for after every task.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
# Of those that are acknowledged late: none of ours is. Unless it is said, every loss of the broker logs a paragraph.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
# Celery closes the database connection after every task unless told otherwise; 9 ms a task on PostgreSQL.
CELERY_DB_REUSE_MAX = 1000
CELERY_TASK_ROUTES = {
    "inference.generate": {"queue": "generate"},
    "data.run": {"queue": "data"},
    "training.run": {"queue": "training"},
    "search.advance": {"queue": "data"},
}
CELERY_BEAT_SCHEDULER = "webapp.core.beat:SteadyScheduler"
CELERY_BEAT_SCHEDULE = {
    "reap": {"task": "inference.reap", "schedule": 2.0, "options": {"expires": 10}},
    "sweep models": {"task": "inference.sweep", "schedule": 3600.0, "options": {"expires": 3600}},
    "reap data": {"task": "data.reap", "schedule": 5.0, "options": {"expires": 10}},
    "sweep widgets": {"task": "widgets.sweep", "schedule": 3600.0, "options": {"expires": 3600}},
    "reap jobs": {"task": "jobs.reap", "schedule": 5.0, "options": {"expires": 10}},
    "deliver webhooks": {"task": "api.deliver_webhooks", "schedule": 5.0, "options": {"expires": 10}},
    "sweep backups": {"task": "ops.sweep_backups", "schedule": 3600.0, "options": {"expires": 3600}},
    "retain": {"task": "ops.retain", "schedule": 3600.0, "options": {"expires": 3600}},
    "prune webhooks": {"task": "api.prune_webhooks", "schedule": 3600.0, "options": {"expires": 3600}},
    "forget completions": {"task": "api.forget", "schedule": 60.0, "options": {"expires": 60}},
    "sweep idempotency": {
        "task": "api.sweep_idempotency",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
}

# --- Inference ---------------------------------------------------------------------------------------------
# Makes the worker's engine: a callable(ServedModel) -> inference.engine.Engine. Tests put a scripted one here.
INFERENCE_ENGINE = env.str("INFERENCE_ENGINE", "inference.worker.load_engine")
INFERENCE_DTYPE = env.choice("INFERENCE_DTYPE", ("auto", "fp32", "bf16", "int8"), "auto")
INFERENCE_DEVICE = env.choice("INFERENCE_DEVICE", ("auto", "cpu", "cuda"), "auto")
INFERENCE_COMPILE = env.bool("INFERENCE_COMPILE", True)
# A worker renews its lease three times within this; when it runs out, its replies are handed to another.
INFERENCE_LEASE_SECONDS = env.int("INFERENCE_LEASE_SECONDS", 10, low=1, high=600)
INFERENCE_MAX_RUNNING = env.int("INFERENCE_MAX_RUNNING", 32, low=1, high=4096)
# Engines of one worker: the default model's, which stays, and those of other models, which come and go.
INFERENCE_MAX_MODELS = env.int("INFERENCE_MAX_MODELS", 3, low=1, high=64)
# What a worker serves: names of whole models, the first of which is there from its start to its end; none: any model.
INFERENCE_MODELS = env.list("INFERENCE_MODELS")
INFERENCE_MAX_QUEUED = env.int("INFERENCE_MAX_QUEUED", 500, low=1, high=100_000)
INFERENCE_DEADLINE_SECONDS = env.int("INFERENCE_DEADLINE_SECONDS", 600, low=1, high=86_400)
# How long a finished token log stays for readers that come back; after that the database row answers, and what the API
# was not to store is forgotten.
INFERENCE_LOG_TTL_SECONDS = 900

# --- Training ----------------------------------------------------------------------------------------------
# Of all processes of a job; 0: one fewer than there are cores, so that chat is never without one.
TRAINING_THREADS = env.int("TRAINING_THREADS", 0, low=0, high=1024)
TRAINING_PROCESSES = env.int("TRAINING_PROCESSES", 1, low=1, high=64)
# Of one job: where it takes more, it is ended, and what was saved is kept. 0: nine tenths of the machine's; no limit.
TRAINING_MEMORY_GB = env.int("TRAINING_MEMORY_GB", 0, low=0, high=1_000_000)
TRAINING_MAX_HOURS = env.int("TRAINING_MAX_HOURS", 72, low=0, high=100_000)
TRAINING_DEVICE = env.choice("TRAINING_DEVICE", ("auto", "cpu", "cuda"), "auto")

# --- Limits ------------------------------------------------------------------------------------------------
# Of each person, in all workspaces and with all keys together; 0: none. Workspaces set limits of their own besides.
LIMIT_REQUESTS_PER_MINUTE = env.int("LIMIT_REQUESTS_PER_MINUTE", 0, low=0, high=1_000_000)
LIMIT_TOKENS_PER_MINUTE = env.int("LIMIT_TOKENS_PER_MINUTE", 0, low=0, high=1_000_000_000)
LIMIT_CONCURRENT_STREAMS = env.int("LIMIT_CONCURRENT_STREAMS", 0, low=0, high=10_000)

# --- API ---------------------------------------------------------------------------------------------------
# One file sent to /v1/files, with its form. (The pages upload in parts, of files as large as training takes.)
API_MAX_UPLOAD_MB = env.int("API_MAX_UPLOAD_MB", 512, low=4, high=20_480)

# --- People ------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    "django.contrib.auth.hashers.ScryptPasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 8}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
SIGNUP = env.choice("SIGNUP", ("open", "invite", "closed"), "open")
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "webapp.accounts.adapter.AccountAdapter"
SOCIALACCOUNT_ADAPTER = "webapp.accounts.adapter.SocialAccountAdapter"
MFA_ADAPTER = "webapp.accounts.adapter.MFAAdapter"
USERSESSIONS_ADAPTER = "webapp.accounts.adapter.SessionsAdapter"
ACCOUNT_FORMS = {
    "signup": "webapp.accounts.forms.SignupForm",
    "add_email": "webapp.accounts.forms.ChangeEmailForm",
}
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_USER_DISPLAY = "webapp.accounts.models.display_name"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_CHANGE_EMAIL = True
# Changing the address, the password or a second factor asks again who is there, after five minutes.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[Flywheel] "
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if HTTPS else "http"
# Only where mail is really sent can people be asked to confirm their address before they come in. Elsewhere a
# sign-up with a taken address has to be refused, and so tells that it is taken.
ACCOUNT_EMAIL_VERIFICATION = env.choice(
    "EMAIL_VERIFICATION", ("mandatory", "optional"), "mandatory" if env.raw("EMAIL_URL") else "optional"
)
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_RATE_LIMITS = {"setup": "10/m/ip"}
MFA_FORMS = {
    "add_webauthn": "webapp.accounts.passkey_forms.AddPasskeyForm",
    "authenticate": "webapp.accounts.code_forms.AuthenticateForm",
    "reauthenticate": "webapp.accounts.code_forms.ReauthenticateForm",
}
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Flywheel"
MFA_TOTP_TOLERANCE = 1  # phones' clocks are seldom off by more than 30 s
MFA_ALLOW_UNVERIFIED_EMAIL = ACCOUNT_EMAIL_VERIFICATION != "mandatory"
# Browsers treat http://localhost as secure; everything else needs https for passkeys.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not HTTPS
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_PROVIDERS = single_sign_on(env)

# --- Browser security --------------------------------------------------------------------------------------
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_ENGINE = "webapp.core.sessions"
# Two sites on one host name (other ports) would overwrite each other's cookies without names of their own. Behind a
# proxy the port is the one people see: the site's web processes listen on one each, and have the same visitors.
_cookie_suffix = _public_port or (443 if HTTPS else 80)
SESSION_COOKIE_NAME = f"flywheel_session_{_cookie_suffix}"
CSRF_COOKIE_NAME = f"flywheel_csrf_{_cookie_suffix}"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = False
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
# Redirecting to HTTPS, subdomains and preload lists are decisions of the proxy in front and of who owns the domain.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        # Browsers apply this to redirects too, and "log in with ..." is a form that leads to the issuer.
        "form-action": [SELF, *issuer_origin(env)],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES  # of what is not a file
FILE_UPLOAD_HANDLERS = ["training.upload_handler.StraightToDisk"]

# --- Static files, language, time --------------------------------------------------------------------------
STATIC_URL = "static/"
STATICFILES_DIRS = [ROOT / "webapp" / "static", NINJA / "static"]
STATIC_ROOT = FLYWHEEL_HOME / "static"
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [ROOT / "webapp" / "locale"]
USE_TZ = True
TIME_ZONE = "UTC"

# --- Addresses that people typed, as of webhooks ------------------------------------------------------------
OUTBOUND_ALLOW = Allowed.parse(env.list("OUTBOUND_ALLOW"), variable="OUTBOUND_ALLOW")

# --- Operations --------------------------------------------------------------------------------------------
HOST = env.str("HOST", "127.0.0.1")
# What a process that is told to end gets to finish replies it is writing or sending; then it hands them over.
STOP_GRACE_SECONDS = env.int("STOP_GRACE_SECONDS", 5, low=0, high=3600)
WEB_PROCESSES = env.int("WEB_PROCESSES", 1, low=1, high=64)
METRICS_TOKEN = env.raw("METRICS_TOKEN")
# Days that things are kept (`webapp.ops.retention`); 0: for good.
RETENTION_CONVERSATIONS_DAYS = env.int("RETENTION_CONVERSATIONS_DAYS", 0, low=0, high=36_500)
RETENTION_API_DAYS = env.int("RETENTION_API_DAYS", 0, low=0, high=36_500)
RETENTION_DATASETS_DAYS = env.int("RETENTION_DATASETS_DAYS", 0, low=0, high=36_500)
RETENTION_CANCELLED_DAYS = env.int("RETENTION_CANCELLED_DAYS", 7, low=0, high=36_500)
RETENTION_FAILED_DAYS = env.int("RETENTION_FAILED_DAYS", 30, low=0, high=36_500)
RETENTION_WEBHOOKS_DAYS = env.int("RETENTION_WEBHOOKS_DAYS", 30, low=0, high=36_500)
RETENTION_USAGE_DAYS = env.int("RETENTION_USAGE_DAYS", 0, low=0, high=36_500)
RETENTION_AUDIT_DAYS = env.int("RETENTION_AUDIT_DAYS", 0, low=0, high=36_500)
RETENTION_INVITATIONS_DAYS = env.int("RETENTION_INVITATIONS_DAYS", 30, low=0, high=36_500)
_pulse = env.raw("FLYWHEEL_PULSE")
PULSE_FILE = Path(_pulse) if _pulse else None
LOG_FORMAT = env.choice("LOG_FORMAT", ("console", "json"), "console")
LOG_LEVEL = env.choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO")
LOGGING = logs.configuration(LOG_FORMAT, LOG_LEVEL)
logs.configure_structlog()
# One line a request: when it has been answered.
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
# webapp.core.request_ids has looked at it by then.
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True

# --- Mail --------------------------------------------------------------------------------------------------
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", "flywheel@localhost")
EMAIL_URL = env.url("EMAIL_URL", ("smtp", "smtps", "console"))
if EMAIL_URL is None:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = FLYWHEEL_HOME / "mail"
else:
    globals().update(mail.settings_of(EMAIL_URL))

coherence.refuse_contradictions(
    coherence.Together(
        debug=DEBUG,
        site_url=_site_url.rstrip("/") if _site_url else "",
        allowed_hosts=ALLOWED_HOSTS,
        secret_key=SECRET_KEY,
        mail_is_sent=EMAIL_URL is not None,
        verification=ACCOUNT_EMAIL_VERIFICATION,
        lease_seconds=INFERENCE_LEASE_SECONDS,
        deadline_seconds=INFERENCE_DEADLINE_SECONDS,
    )
)
