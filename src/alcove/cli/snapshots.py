"""The commands that take, list, show, name and delete snapshots."""

from datetime import UTC, datetime

from alcove.cli import tables
from alcove.cli.failures import FAILED, told, warn
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import recovered, reference, snapshot, with_backend
from alcove.cli.progress import CopyBar
from alcove.cli.values import shown_size
from alcove.contract import SandboxError, SandboxSnapshot, to_json
from alcove.local import LineageNode
from alcove.local.exec.terminal import TerminalSandbox

_AGES = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def take(given: Given) -> int:
    """Take a snapshot and print its id."""

    async def work(backend: TerminalSandbox) -> int:
        with CopyBar(f"snapshot of {given.words[0]}") as bar:
            taken = await backend.snapshot(given.words[0], name=given["name"], progress=bar.advance)
        print(to_json(taken).decode() if given["json"] else taken.snapshot_id)
        return 0

    return with_backend(given, work)


def ls(given: Given) -> int:
    """List the snapshots."""

    async def work(backend: TerminalSandbox) -> int:
        found = (await recovered(backend)).snapshots()
        if given["json"]:
            print(f"[{','.join(to_json(one).decode() for one in found)}]")
        elif given["quiet"]:
            print("".join(f"{one.snapshot_id}\n" for one in found), end="")
        else:
            header = ("ID", "NAME", "SESSION", "PARENT", "AGE", "SIZE", "FILES", "DURABLE")
            tables.show(header, [_row(one) for one in found])
        return 0

    return with_backend(given, work)


def show(given: Given) -> int:
    """Show one snapshot, and what lives on it."""

    async def work(backend: TerminalSandbox) -> int:
        found = snapshot(backend, given.words[0])
        users = backend.snapshot_users(found.snapshot_id)
        if given["json"]:
            print(_json(found, users))
        else:
            tables.show(None, _details(found, users))
        return 0

    return with_backend(given, work)


def name(given: Given) -> int:
    """Give a snapshot a name, or take it away."""
    wanted = given.words[1] if len(given.words) > 1 else None
    if (wanted is None) != given["none"]:
        raise Usage(f"give the snapshot a name, or none: alcove snapshots name {given.words[0]} NAME|--none")

    async def work(backend: TerminalSandbox) -> int:
        named = backend.name_snapshot(snapshot(backend, given.words[0]).snapshot_id, wanted)
        print(to_json(named).decode() if given["json"] else reference(named))
        return 0

    return with_backend(given, work)


def rm(given: Given) -> int:
    """Delete snapshots, and tell what of them stays."""

    async def work(backend: TerminalSandbox) -> int:
        users: dict[str, list[LineageNode]] = {}
        deleted: set[str] = set()
        failed = False
        for word in dict.fromkeys(given.words):
            try:
                found = snapshot(backend, word).snapshot_id
                living = backend.snapshot_users(found)
                await backend.delete_snapshot(found)
                deleted.add(found)
                users[word] = living
            except SandboxError as error:
                warn(told(error))
                failed = True
        for word, living in users.items():
            if left := [node for node in living if node.id not in deleted]:
                warn(f"{word} is deleted; its files stay as long as {_listed(left)}")
        return FAILED if failed else 0

    return with_backend(given, work)


def _listed(users: list[LineageNode]) -> str:
    words = []
    for kind, verb in (("session", "live"), ("snapshot", "exist")):
        named = [node.name or node.id for node in users if node.kind == kind]
        if named:
            plural = len(named) > 1
            words.append(f"{kind}{'s' if plural else ''} {', '.join(named)} {verb}{'' if plural else 's'}")
    return " and ".join(words)


def _row(found: SandboxSnapshot) -> tuple[str, ...]:
    told_of = found.metadata
    return (
        found.snapshot_id,
        told_of.get("name", ""),
        str(found.session_id),
        told_of["parent"],
        _age(told_of["created"]),
        shown_size(int(told_of["bytes"])) if "bytes" in told_of else "",
        told_of.get("files", ""),
        "yes" if told_of["durable"] == "true" else "no",
    )


def _age(created: str) -> str:
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()))
    count, unit = next(((seconds // of, unit) for of, unit in _AGES if seconds >= of), (0, "s"))
    return f"{count} {unit}"


def _json(found: SandboxSnapshot, users: list[LineageNode]) -> str:
    """The contract's object, and who lives on it."""
    from msgspec.json import decode, encode

    return encode({**decode(to_json(found)), "used_by": users}).decode()


def _details(found: SandboxSnapshot, users: list[LineageNode]) -> list[tuple[str, str]]:
    rows = [("id", found.snapshot_id), ("session", str(found.session_id)), ("backend", found.backend)]
    rows += [(key, value) for key, value in found.metadata.items() if value]
    return [*rows, *(("used by", f"{node.kind} {node.name or node.id}") for node in users)]
