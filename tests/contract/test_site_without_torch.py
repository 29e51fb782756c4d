"""The web process needs no torch and no model library: the whole site is imported and answers without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.services import ROOT, minimal_environment

PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

BLOCKED = {"torch", "transformers", "safetensors", "tokenizers", "sentencepiece", "gguf", "numpy", "jinja2"}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"the web process asked for {name}")

sys.meta_path.insert(0, Blocker())

import webapp.asgi
from django.urls import get_resolver
from django.conf import settings

get_resolver().url_patterns
imported = []
for package in ("webapp", "inference", "training"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        parts = module.name.split(".")
        # What belongs to workers may need torch; what every process reads may not.
        if parts[-1] in {"services", "access", "views", "urls", "models", "consumers", "apps", "signals", "stream",
                         "follow", "parameters", "interface", "catalog"} and "migrations" not in parts:
            importlib.import_module(module.name)
            imported.append(module.name)

from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
client = Client(headers={"host": "localhost"})
assert client.get("/healthz").status_code == 200
page = client.get("/accounts/login/", follow=True)
assert page.status_code == 200, page.status_code
assert BLOCKED.isdisjoint(name.partition(".")[0] for name in sys.modules)
print(len(imported), "modules")
"""


def test_the_whole_site_is_imported_and_serves_a_page_without_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={
            **minimal_environment(),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "FLYWHEEL_HOME": str(tmp_path),
            # Whatever a page may keep in a cache needs no broker here.
            "REDIS_URL": "redis://127.0.0.1:1/0",
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= 12
