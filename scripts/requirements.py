"""Print what pip must install before the package: the build's requirements, ours, and those of the named extras."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def of_extra(extras: dict[str, list[str]], name: str) -> list[str]:
    found = []
    for requirement in extras[name]:
        own = re.fullmatch(r"alcove\[([\w,-]+)\]", requirement)
        found += [r for extra in own[1].split(",") for r in of_extra(extras, extra)] if own else [requirement]
    return found


def requirements(names: list[str]) -> list[str]:
    pyproject = tomllib.loads(PYPROJECT.read_text())
    project = pyproject["project"]
    wanted = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    for name in names:
        wanted += of_extra(project["optional-dependencies"], name)
    return sorted(set(wanted))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
