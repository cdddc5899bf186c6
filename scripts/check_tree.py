"""Look through every file of the tree for what must not be in it.

That is: the hosts of this machine's package registries, this machine's own paths, and, in code, blanks at the end of a
line and lines that are too long. Long files are told, not refused.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
LONG_FILE = 500
LONG_LINE = 120
CODE = {".c", ".h", ".py", ".build"}
# Verbatim texts of others
FOREIGN = {"LICENSE"}
# A checkout straight below one of these says nothing about the machine
COMMON = {"/", "/tmp", "/var/tmp", "/home", "/root", "/srv", "/opt", "/usr", "/usr/local", "/mnt", "/build", "/builds"}


def output(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def registry_addresses() -> Iterator[str]:
    from pip._internal.models.index import PyPI

    yield PyPI.url
    yield output(sys.executable, "-m", "pip", "config", "list")
    yield output("npm", "config", "get", "registry")
    yield output("apt-get", "indextargets", "--format", "$(SITE)")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "NPM_CONFIG_REGISTRY"):
        yield os.environ.get(name, "")


def registry_hosts() -> set[str]:
    addresses = re.findall(r"https?://[^\s'\"]+", "\n".join(registry_addresses()))
    hosts = {urlsplit(address).hostname or "" for address in addresses}
    return {host for host in hosts if "." in host and not re.fullmatch(r"[\d.]+", host)}


def machine_paths() -> set[str]:
    places = {str(ROOT), str(ROOT.parent), os.environ.get("PYENV_ROOT", ""), os.environ.get("PIP_FIND_LINKS", "")}
    places.add(str(Path("/root") / ".pyenv"))
    if not sys.base_prefix.startswith("/usr"):
        places.add(sys.base_prefix)
    return {place for place in places if place.startswith("/") and place not in COMMON}


def forbidden() -> list[tuple[re.Pattern[str], str]]:
    named = [(host, "names a package registry's host") for host in sorted(registry_hosts())]
    named += [(path, "names a path of this machine") for path in sorted(machine_paths())]
    return [(re.compile(rf"(?<![\w.-]){re.escape(text)}(?![\w-])"), what) for text, what in named]


def files() -> Iterator[Path]:
    listed = output("git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard")
    if listed:
        found = [ROOT / name for name in listed.split("\0") if name]
    else:
        left_out = {".git", "build", "__pycache__", "node_modules"}
        found = [path for path in ROOT.rglob("*") if not left_out & set(path.parts) and ".venv" not in str(path)]
    yield from (path for path in sorted(found) if path.is_file() and not path.is_symlink())


def faults(path: Path, text: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    name = path.relative_to(ROOT)
    for number, line in enumerate(text.split("\n"), 1):
        for pattern, what in patterns:
            if pattern.search(line):
                yield f"{name}:{number}: {what}: {line.strip()[:100]}"
        if path.suffix in CODE and line != line.rstrip():
            yield f"{name}:{number}: blanks at the end of the line"
        if path.suffix in CODE - {".py"} and len(line.expandtabs(8)) > LONG_LINE:  # Ruff measures Python's
            yield f"{name}:{number}: {len(line.expandtabs(8))} columns, {LONG_LINE} at most"


def main() -> int:
    patterns = forbidden()
    found: list[str] = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if str(path.relative_to(ROOT)) not in FOREIGN:
            found += faults(path, text, patterns)
        lines = text.count("\n")
        if path.suffix in CODE and lines > LONG_FILE:
            print(f"note: {path.relative_to(ROOT)} has {lines} lines; split it by noun if it owns more than one")
    print("\n".join(found) if found else f"tree: nothing found ({len(patterns)} hosts and paths looked for)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
