"""`make sbom`: what this site is made of, as a CycloneDX 1.6 bill of materials on stdout. Asks nobody.

Every package that constraints.txt pins, in that version; its licence is what the installed one says of itself. The same
files give the same bytes. Knows nothing of Django.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
_LONGEST_NAME = 60  # of a licence; some packages put its whole text there
_NAMESPACE = uuid.UUID("6d1c3f6e-0f1e-4f5c-9b8b-2a7f0e5c7a11")


def pinned(text: str) -> dict[str, str]:
    """Of the text of constraints.txt: the version of each package that this Python needs."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    needed = (
        one for one in map(Requirement, filter(None, lines)) if one.marker is None or one.marker.evaluate()
    )
    return {one.name: next(iter(one.specifier)).version for one in needed}


def licence(name: str) -> dict[str, Any] | None:
    """An entry of CycloneDX's `licenses`; None where the package is not installed, or says nothing."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if expressions := about.get_all("License-Expression"):
        return {"expression": expressions[0]}
    said = "".join(about.get_all("License") or []).strip()
    if not said or "\n" in said or len(said) > _LONGEST_NAME:
        named = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
        said = " or ".join(line.rsplit(" :: ", 1)[1] for line in named) or said.split("\n", 1)[0]
    return {"license": {"name": said}} if said else None


def component(name: str, version: str) -> dict[str, Any]:
    url = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    found = licence(name)
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
        **({"licenses": [found]} if found else {}),
    }


def bill_of_materials(root: Path = ROOT) -> dict[str, Any]:
    """Raises OSError where the two files are not there."""
    constraints = (root / "constraints.txt").read_text(encoding="utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    components = [component(name, version) for name, version in sorted(pinned(constraints).items())]
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, constraints + project['version'])}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in components]}],
    }


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
    sys.stdout.write("\n")
