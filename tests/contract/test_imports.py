"""Who may import whom: one direction, read from the source of every module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "alcove"

#: What each part of `alcove` may import of the others, beside itself. `__init__` is the door.
ALLOWED: dict[str, set[str]] = {
    "contract": set(),
    "registry": {"contract"},
    "testing": {"contract", "registry"},
    "changes": set(),
    "local": {"changes", "contract", "egress", "state"},
    "egress": {"contract"},
    "state": {"contract"},
    "portal": set(),
    "overrides": {"contract"},
    "live": {"changes", "contract", "egress", "local", "overrides", "portal"},
    "sandbox": {"changes", "contract", "egress", "registry", "live", "local", "overrides", "portal"},
    "server": {"contract", "registry"},
    "client": {"contract", "registry"},
    "fleet": {"contract", "registry", "client"},
    "cli": {"__init__", "changes", "contract", "state", "egress", "registry", "sandbox", "local"},
    "mcp": {"__init__", "contract", "registry", "sandbox"},
    "integrations": {"__init__", "contract", "registry", "sandbox"},
    "__init__": {"changes", "contract", "local", "sandbox"},
    "__main__": {"cli"},
}

#: Backends: others import the package itself, never a module inside.
BACKENDS = {"local", "client", "fleet"}

#: But for what a backend has for one of them alone.
INSIDES = {"cli": {("local", "exec", "terminal"), ("local", "doctor"), ("local", "disk", "usage")}}

#: What the contract takes from outside: nothing that reads, writes, waits or spawns.
CONTRACT_IMPORTS = {
    "base64",
    "collections.abc",
    "enum",
    "functools",
    "json",
    "msgspec",
    "msgspec.structs",
    "os",
    "re",
    "types",
    "typing",
}

#: Packages that only some parts may import.
KEPT_TO = {
    "rich": {"cli"},
    "pytest": {"testing"},
    "litestar": {"server"},
    "uvicorn": {"server", "cli"},
    "httpx": {"client", "fleet"},
    "ray": {"fleet"},
}


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that is imported anywhere in a module, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def wrong(path: Path) -> Iterator[str]:
    part = part_of(path)
    for line, name in imported(path):
        where = f"{path.relative_to(SOURCE.parent)}:{line}: {part} imports {name}"
        top, *inner = name.split(".")
        if top in KEPT_TO and part not in KEPT_TO[top]:
            yield where
        if top != "alcove":
            continue
        target = inner[0] if inner and inner[0] in ALLOWED else "__init__"
        if target not in {part, *ALLOWED[part]}:
            yield where
        elif target in BACKENDS - {part} and len(inner) > 1 and is_module(inner[:2]) and not is_for(part, inner):
            yield f"{where}, which is the inside of a backend"


def is_module(parts: list[str]) -> bool:
    return SOURCE.joinpath(*parts).with_suffix(".py").exists() or SOURCE.joinpath(*parts).is_dir()


def is_for(part: str, parts: list[str]) -> bool:
    return any(tuple(parts[: len(inside)]) == inside for inside in INSIDES.get(part, set()))


def test_every_part_has_its_row() -> None:
    assert sources(), SOURCE
    assert {part_of(path) for path in sources()} <= ALLOWED.keys(), "say in ALLOWED what the new part may import"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    assert list(wrong(path)) == []


@pytest.mark.parametrize("path", sorted((SOURCE / "contract").glob("*.py")), ids=lambda path: path.name)
def test_the_contract_does_no_io(path: Path) -> None:
    for line, name in imported(path):
        module = name.rpartition(".")[0] or name
        if name.startswith("alcove.contract"):
            continue
        assert module in CONTRACT_IMPORTS or name in CONTRACT_IMPORTS, f"{path.name}:{line}: {name}"
        assert module != "os" or name in {"os.PathLike", "os.fspath"}, f"{path.name}:{line}: {name}"


def test_a_wrong_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SOURCE / "contract" / "bad.py"
    monkeypatch.setattr(Path, "read_text", lambda _: "def f():\n    from alcove.local import config\n    import rich\n")
    assert [line.partition(": ")[2] for line in wrong(bad)] == [
        "contract imports alcove.local.config",
        "contract imports rich",
    ]
    assert [line.partition(": ")[2] for line in wrong(SOURCE / "cli" / "bad.py")] == [
        "cli imports alcove.local.config, which is the inside of a backend"
    ]
