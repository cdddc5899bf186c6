"""Print the files that make up a Python package, one a line, relative to the directory that holds it."""

import sys
from pathlib import Path

LEFT_OUT_SUFFIXES = {".pyc", ".pyo", ".swp", ".orig", ".rej"}


def belongs(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.suffix not in LEFT_OUT_SUFFIXES and not path.name.endswith("~")


def package_files(root: Path, package: str) -> list[Path]:
    found = [path.relative_to(root) for path in sorted((root / package).rglob("*")) if path.is_file()]
    kept = [path for path in found if belongs(path)]
    if not kept:
        raise SystemExit(f"{root / package} holds no file of a package")
    return kept


if __name__ == "__main__":
    for path in package_files(Path(sys.argv[1]), sys.argv[2]):
        print(path)
