"""Variables that are misspelt, and settings that contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from webapp import coherence
from webapp.coherence import Together
from webapp.env import SettingsError
from webapp.ops.variables import VARIABLES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_ULR", "DATABASE_URL"),
        ("REDIS_ULR", "REDIS_URL"),
        ("REDIS_URLS", "REDIS_URL"),
        ("DATABASE_URL_FIL", "DATABASE_URL_FILE"),
        ("INFERENCE_MAX_RUNING", "INFERENCE_MAX_RUNNING"),
        ("INFERENCE_LEASE_SECOND", "INFERENCE_LEASE_SECONDS"),
        ("INFERENCE_DEADLINE", "INFERENCE_DEADLINE_SECONDS"),
        ("ALLOWED_HOST", "ALLOWED_HOSTS"),
        ("SECRETKEY", "SECRET_KEY"),
        ("SIGN_UP", "SIGNUP"),
        ("SINGUP", "SIGNUP"),
        ("FLYWHEEL_HOEM", "FLYWHEEL_HOME"),
        ("RETENTION_CONVERSATIONS", "RETENTION_CONVERSATIONS_DAYS"),
        ("RETENTION_CONVERSATION_DAY", "RETENTION_CONVERSATIONS_DAYS"),
        ("LIMIT_REQUESTS_PER_MIN", "LIMIT_REQUESTS_PER_MINUTE"),
        ("STORAGE_ULR", "STORAGE_URL"),
        ("STOP_GRACE", "STOP_GRACE_SECONDS"),
        ("API_MAX_UPLOAD", "API_MAX_UPLOAD_MB"),
        ("WEB_PROCESS", "WEB_PROCESSES"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is set, .* did you mean {meant}"):
        coherence.refuse_misspelt({name: "x", "PATH": "/bin"}, VARIABLES)


@pytest.mark.parametrize(
    "environ",
    [
        {
            "DATABASE_URI": "x",
            "DATABASE_URL": "y",
        },  # the right one is there, so this one is for somebody else
        {"DATABASE_URI": "x", "DATABASE_URL_FILE": "y"},
        {
            "PATH": "x",
            "HOME": "x",
            "HOST": "x",
            "USER": "x",
            "PORT": "x",
            "PROT": "x",
            "DEBUGS": "x",
            "SIGNAL": "x",
        },
        {"LOGLEVEL": "x", "HOSTS": "x", "POST": "x", "DEBUG_": "x", "LOG_LEVELS": "x"},
        {"INFERENCE_API_KEY": "x", "EMAIL": "x", "TRAINING_NOTES": "x"},
        {
            "REDIS_HOST": "x",
            "POSTGRES_PASSWORD": "x",
            "DATABASE_URL_OF_OTHERS": "x",
            "HOSTNAME": "x",
            "LANG": "C",
        },
        {"DATABASE_URL_2": "x", "REDIS_URL_2": "x", "SITE_ID": "x", "ALLOWED_ORIGINS": "x"},
        {"API_KEY": "x", "API_URL": "x", "API_MAX_RETRIES": "3", "MODEL_CACHE": "x", "MODEL_CACHE_DIR": "x"},
        {"AWS_ACCESS_KEY": "x", "AWS_SECRET_KEY": "x", "AWS_ENDPOINT_URL_S3": "x", "AWS_DEFAULT_REGION": "x"},
        {"STORAGE_DRIVER": "overlay", "LOG_DIR": "x", "WEB_CONCURRENCY": "2", "SECRET_KEY_BASE": "x"},
    ],
)
def test_variables_of_others_are_left_alone(environ: dict[str, str]) -> None:
    coherence.refuse_misspelt(environ, VARIABLES)


@pytest.mark.parametrize("setting", sorted(VARIABLES))
def test_of_every_setting_a_word_too_many_is_noticed_unless_others_have_such_names(setting: str) -> None:
    """A setting that is added later, too."""
    first = setting.split("_")[0]
    shared = {
        "ALLOWED",
        "API",
        "AWS",
        "DATABASE",
        "DEBUG",
        "HOST",
        "LOG",
        "MODEL",
        "PORT",
        "REDIS",
        "SECRET",
        "SITE",
    }
    found = [unknown.name for unknown in coherence.unknown_variables({f"{setting}_OR_SO": "x"}, VARIABLES)]
    assert found or first in shared


GOOD = Together(
    debug=False,
    site_url="https://chat.example.org",
    allowed_hosts=["chat.example.org"],
    secret_key="s" * 50,
    mail_is_sent=False,
    verification="optional",
    lease_seconds=10,
    deadline_seconds=600,
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"site_url": "https://Chat.Example.org:8443"},
        {"allowed_hosts": [".example.org"]},
        {"allowed_hosts": ["*"]},
        {"site_url": "http://[::1]:8000", "allowed_hosts": ["[::1]"], "debug": True},
        {"site_url": "", "debug": True, "allowed_hosts": ["localhost"]},
        {"verification": "mandatory", "mail_is_sent": True},
    ],
)
def test_settings_that_go_together_are_taken(change: dict[str, object]) -> None:
    coherence.refuse_contradictions(replace(GOOD, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"debug": True}, "DEBUG is on, but SITE_URL says that others"),
        ({"allowed_hosts": ["localhost"]}, "add chat.example.org to ALLOWED_HOSTS"),
        ({"site_url": "https://chat.example.org/flywheel"}, "SITE_URL must be a scheme and a host"),
        ({"site_url": "https://u:hunter2@chat.example.org"}, "SITE_URL must be a scheme and a host"),
        ({"site_url": "https://chat.example.org:port"}, "SITE_URL must be a scheme and a host"),
        ({"secret_key": "changeme"}, "SECRET_KEY has 8 letters"),
        ({"verification": "mandatory"}, "without EMAIL_URL no mail is sent"),
        ({"lease_seconds": 600}, "make the lease shorter"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        coherence.refuse_contradictions(replace(GOOD, **change))  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
