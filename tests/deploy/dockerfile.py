"""deploy/Dockerfile, read instruction by instruction. Knows nothing of what they do.

Of the format it knows what our file uses: continued lines, ARG and ENV with their variables, stages that build on
stages, and no heredocs.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache

from tests.deploy.compose_file import DEPLOY

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True)
class Instruction:
    line: int
    name: str  # "RUN", in capitals
    text: str  # what follows it, in one line

    @property
    def words(self) -> list[str]:
        """Without flags such as --from=packages."""
        return [word for word in shlex.split(self.text) if not word.startswith("--")]

    @property
    def flags(self) -> dict[str, str]:
        found = (word[2:].partition("=") for word in self.text.split() if word.startswith("--"))
        return {name: value for name, _, value in found}

    @property
    def command(self) -> list[str]:
        """Of CMD and HEALTHCHECK CMD: the words that are run; what a shell is to read goes to one."""
        text = re.sub(r"^(--\S+\s+)*(CMD\s+)?", "", self.text)
        if text.startswith("["):
            return [str(word) for word in json.loads(text)]
        return ["/bin/sh", "-c", text]


@dataclass
class Stage:
    name: str
    base: str  # another stage, or an image
    instructions: list[Instruction] = field(default_factory=list)


def instructions() -> list[Instruction]:
    found, pending, begun = [], "", 0
    for number, line in enumerate((DEPLOY / "Dockerfile").read_text().splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or pending):
            continue
        begun = begun if pending else number
        pending += line.strip().removesuffix("\\")
        if line.endswith("\\"):
            continue
        name, _, text = pending.partition(" ")
        found.append(Instruction(begun, name.upper(), text.strip()))
        pending = ""
    return found


@cache
def stages() -> dict[str, Stage]:
    """By name, in the order of the file. What stands before the first FROM are its arguments."""
    found: dict[str, Stage] = {}
    for instruction in instructions():
        if instruction.name == "FROM":
            base, _as, name = instruction.text.split()
            current = found[name] = Stage(name, base)
        elif found:
            current.instructions.append(instruction)
    return found


def lineage(target: str) -> list[Stage]:
    """The stages a target consists of, the first first."""
    stage = stages()[target]
    return [*(lineage(stage.base) if stage.base in stages() else []), stage]


def instructions_of(target: str, *names: str) -> list[Instruction]:
    """Those of a target and what it builds on that are one of `names`, in the order in which they count."""
    return [each for stage in lineage(target) for each in stage.instructions if each.name in names]


def environment_of(target: str) -> dict[str, str]:
    """What processes in the image find in their environment; PATH as it begins."""
    found = {"PATH": ""}
    for instruction in instructions_of(target, "ENV"):
        for word in instruction.words:
            name, _, value = word.partition("=")
            found[name] = _VARIABLE.sub(lambda match: found.get(match[1] or match[2], ""), value)
    return found
