"""Prints what pyproject.toml asks for, a requirement a line, for the images: python requirements.py [EXTRA...]

So that a layer with packages is made anew when they change, and not with every line of code.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    print(requirement)  # noqa: T201
for extra in sys.argv[1:]:
    for requirement in project["optional-dependencies"][extra]:
        print(requirement)  # noqa: T201
