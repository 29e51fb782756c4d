"""Settings of the test run: its own state folder, broker and database; nothing of the developer's is touched.

`TEST_DATABASE_URL` chooses the database: unset or `sqlite`, a PostgreSQL URL, or the word `postgres` for a cluster
that is started here and thrown away.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.postgres import Cluster
from webapp.ops.broker import free_port
from webapp.ops.variables import VARIABLES

for _name in VARIABLES:
    os.environ.pop(_name, None)
    os.environ.pop(f"{_name}_FILE", None)

TEST_HOME = Path(tempfile.mkdtemp(prefix="fwtest"))
atexit.register(shutil.rmtree, TEST_HOME, ignore_errors=True)
# Where the demo model is kept between runs, so that it is fetched once.
MODEL_CACHE = Path(
    os.environ.get("FLYWHEEL_TEST_CACHE") or Path(__file__).resolve().parent.parent / "var" / "test-cache"
)

_asked = os.environ.get("TEST_DATABASE_URL") or "sqlite"
CLUSTER = Cluster() if _asked == "postgres" else None
if CLUSTER is not None:
    # The processes that run tests for this one take it from here, and start none of their own.
    _asked = os.environ["TEST_DATABASE_URL"] = CLUSTER.url("postgres")
# Where live sites get databases of their own; None: SQLite files.
TEST_SERVER = None if _asked == "sqlite" else _asked
if TEST_SERVER:
    os.environ["DATABASE_URL"] = TEST_SERVER

os.environ["FLYWHEEL_HOME"] = str(TEST_HOME)
(TEST_HOME / "static").mkdir()
TEST_BROKER_PORT = free_port()
os.environ["REDIS_URL"] = f"redis://127.0.0.1:{TEST_BROKER_PORT}/0"

from webapp.settings import *  # noqa: E402, F403

if TEST_SERVER:
    # Another run of tests on the same server has databases of its own.
    DATABASES["default"]["TEST"] = {"NAME": f"test_flywheel_{os.getpid()}"}
# Real hashing takes 0.3 s a login, which is its purpose and not what these tests look at.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
