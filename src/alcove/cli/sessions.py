"""The commands that make, show, change and end sessions."""

import asyncio
from collections.abc import Collection

from alcove.cli import tables, values
from alcove.cli.failures import FAILED, not_found, told, warn
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import recovered, references, spec, with_backend
from alcove.contract import (
    FilesystemMount,
    SandboxError,
    SandboxSession,
    SandboxState,
    SessionNotFound,
    to_json,
)
from alcove.local.exec.terminal import TerminalSandbox


def create(given: Given) -> int:
    """Make a session."""

    async def work(backend: TerminalSandbox) -> int:
        session = await backend.provision(spec(given, backend, wall_time=given["timeout"], user=given["user"]))
        _tell(session, given, session.id)
        return 0

    return with_backend(given, work)


def ls(given: Given) -> int:
    """List the sessions."""

    async def work(backend: TerminalSandbox) -> int:
        labels = dict(given["label"]).items()
        listed = (await recovered(backend)).sessions(ended=given["all"])
        found = [session for session in listed if labels <= session.labels.items()]
        if given["json"]:
            print(f"[{','.join(to_json(session).decode() for session in found)}]")
        elif given["quiet"]:
            print("".join(f"{session.id}\n" for session in found), end="")
        else:
            tables.show(("ID", "STATE", "NETWORK", "LIMITS", "LABELS"), [_row(session) for session in found])
        return 0

    return with_backend(given, work)


def show(given: Given) -> int:
    """Show one session, an ended one too."""

    async def work(backend: TerminalSandbox) -> int:
        session = backend.session(given.words[0])
        if given["json"]:
            print(to_json(session).decode())
        else:
            tables.show(None, _details(session))
        return 0

    return with_backend(given, work)


def mount(given: Given) -> int:
    """Show a host directory in a live session."""
    session_id, text = given.words
    wanted = _mount(text)

    async def work(backend: TerminalSandbox) -> int:
        session = await backend.attach_filesystem(session_id, wanted)
        _tell(session, given, f"{wanted.target} ({_access(wanted)}) shows {wanted.source or 'a fresh directory'}")
        return 0

    return with_backend(given, work)


def suspend(given: Given) -> int:
    """Put a session to sleep."""

    async def work(backend: TerminalSandbox) -> int:
        session = await backend.suspend(given.words[0])
        _tell(session, given, f"{session.id} sleeps until it is used")
        return 0

    return with_backend(given, work)


def resume(given: Given) -> int:
    """Wake a session that sleeps."""

    async def work(backend: TerminalSandbox) -> int:
        session = await backend.resume(given.words[0])
        _tell(session, given, f"{session.id} is awake")
        return 0

    return with_backend(given, work)


def rm(given: Given) -> int:
    """End sessions."""
    if bool(given.words) == given["all"]:
        raise Usage("name the sessions to end, or give --all: alcove rm s-1 s-2")

    async def work(backend: TerminalSandbox) -> int:
        known = [session.id for session in backend.sessions()]
        ids = known if given["all"] else given.words
        outcomes = await asyncio.gather(*(backend.terminate(name) for name in ids), return_exceptions=True)
        failures = [outcome for outcome in outcomes if outcome is not None]
        for failure in failures:
            if not isinstance(failure, SandboxError):
                raise failure
            warn(told(_hinted(failure, known, references(backend))))
        return FAILED if failures else 0

    return with_backend(given, work)


def _hinted(failure: SandboxError, known: Collection[str], snapshots: Collection[str]) -> SandboxError:
    return not_found(failure, known, snapshots) if isinstance(failure, SessionNotFound) else failure


def _mount(text: str) -> FilesystemMount:
    try:
        return values.mount(text)
    except ValueError as error:
        raise Usage(f"{text}: {error}") from None


def _tell(session: SandboxSession, given: Given, words: str) -> None:
    print(to_json(session).decode() if given["json"] else words)


def _access(mount: FilesystemMount) -> str:
    return "copy-on-write" if mount.copy_on_write else mount.access.replace("_", "-")


def _row(session: SandboxSession) -> tuple[str, ...]:
    labels = " ".join(f"{key}={value}" for key, value in session.labels.items())
    metadata = session.metadata
    return (session.id, session.state, metadata.get("network", ""), metadata.get("limits", ""), labels)


def _details(session: SandboxSession) -> list[tuple[str, str]]:
    rows = [("id", str(session.id)), ("state", str(session.state)), ("backend", session.backend)]
    rows += session.metadata.items()
    rows += [("label", f"{key}={value}") for key, value in session.labels.items()]
    if session.state is not SandboxState.TERMINATED:
        for entry in session.mounts:
            access = entry.access.replace("_", "-")
            rows.append(("mount", f"{entry.target} ({access}) {entry.host_path or ''}".rstrip()))
    return rows
