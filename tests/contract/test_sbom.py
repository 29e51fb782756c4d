"""`make sbom` names every package the site is made of, and asks nobody; `make audit` says so where it cannot ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.services import ROOT, minimal_environment
from webapp.ops import audit

# Of CycloneDX 1.6's schema, what is said of the parts that we write.
LICENCE = {
    "oneOf": [
        {
            "type": "object",
            "required": ["expression"],
            "properties": {"expression": {"type": "string", "minLength": 1}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["license"],
            "properties": {
                "license": {
                    "type": "object",
                    "oneOf": [{"required": ["id"]}, {"required": ["name"]}],
                    "properties": {"id": {"type": "string"}, "name": {"type": "string", "minLength": 1}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
    ]
}
COMPONENT = {
    "type": "object",
    "required": ["type", "name", "version", "licenses"],
    "properties": {
        "type": {"enum": ["application", "library"]},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "string", "pattern": r"^\d"},
        "purl": {"type": "string", "pattern": r"^pkg:pypi/[a-z0-9-]+@\S+$"},
        "licenses": {"type": "array", "items": LICENCE, "minItems": 1, "maxItems": 1},
    },
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "required": ["bomFormat", "specVersion"],
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {
            "pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
        },
        "version": {"const": 1},
        "metadata": {"properties": {"component": COMPONENT}, "additionalProperties": False},
        "components": {"type": "array", "items": COMPONENT, "uniqueItems": True},
        "dependencies": {"type": "array"},
    },
    "additionalProperties": False,
}


def made() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "webapp.ops.sbom"],
        cwd=ROOT,
        env=minimal_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bill_of_materials_has_every_pinned_package_with_version_and_licence() -> None:
    said = made()
    bill: dict[str, Any] = json.loads(said)
    jsonschema.validate(bill, SCHEMA)
    lines = re.findall(r"^([\w.-]+)==([\w.+]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(lines) > 150
    assert sorted(lines) == sorted((part["name"], part["version"]) for part in bill["components"])
    everything = {part["bom-ref"] for part in bill["components"]}
    assert len(everything) == len(lines)
    assert {ref for one in bill["dependencies"] for ref in one["dependsOn"]} == everything
    assert made() == said


def test_an_audit_that_cannot_ask_anybody_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(audit, "FOLDER", tmp_path)
    for name in ("PIP_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SystemExit) as ended:
        audit.main()
    said = str(ended.value.code)
    assert said.startswith("flywheel: The audit needs a network: pip-audit==")
    assert len(said.splitlines()) == 1


def test_an_audit_names_what_is_known_and_takes_nothing_for_well_that_it_could_not_ask_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    well = {"name": "a", "version": "1", "vulns": []}
    flawed = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    unasked = {"name": "c", "skip_reason": "not found"}
    assert audit.judge([well]) == 0
    assert audit.judge([well, flawed]) == 1
    assert "b 2: CVE-1 (mended in: 3)" in capsys.readouterr().out
    assert "1 of 2 packages could not be asked about, such as c." in str(audit.judge([well, unasked]))
