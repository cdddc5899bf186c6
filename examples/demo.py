"""What Alcove is for, in a few seconds: a hostile program gets its work done, and gets nothing else.

The exit code is 0 when everything was contained.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alcove import Sandbox, SandboxError

HERE = Path(__file__).parent
INPUT = HERE.parent / "LICENSE"
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def main() -> int:
    text = INPUT.read_text()
    mark = f"alcove-demo-{os.getpid()}"
    # whom the program could harm: a file, a service and a process of ours
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.create_server(("127.0.0.1", 0)) as service,
        subprocess.Popen(["sleep", "1000"]) as bystander,
    ):
        file = Path(directory, "input.txt")
        file.write_text(text)
        Path(directory).chmod(0o755)
        began = time.monotonic()
        try:
            lines, isolation = run_hostile(directory, [str(service.getsockname()[1]), str(os.getpid()), mark])
            took = time.monotonic() - began
            harm = {
                "its input is what it was": file.read_text() == text,
                "nobody connected to the service": not connected(service),
                "the bystander lives": bystander.poll() is None,
                "nothing of it runs any more": not running(mark),
                "nothing was written to /usr": not Path("/usr/bin/alcove-was-here").exists(),
            }
        finally:
            bystander.kill()
    show(lines, harm)
    print(f"\n{took:.1f} s for the session, its attacks and its end. In force: {isolation}")
    return 0 if contained(lines, harm) else 1


def run_hostile(directory: str, arguments: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Run the program in a session of its own, and return what it said."""
    # best_effort: a plain user may have no memory limit on this host; what is not in force is told below
    with Sandbox(memory_mb=512, pids=100, best_effort=True) as box:
        box.attach(directory, "/data")
        program = (HERE / "hostile.py").read_bytes()
        result = box.run(["python3", "-", *arguments], stdin=program, timeout=60)
        if result.exit_code:
            print(result.stderr, file=sys.stderr)
        told = box.session.metadata
        return [json.loads(line) for line in result.stdout.splitlines()], f"{told['isolation']}; {told['limits']}"


def connected(service: socket.socket) -> bool:
    service.setblocking(False)
    try:
        service.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def running(mark: str) -> bool:
    """Look for a process of that name on the host."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "cmdline").read_bytes().startswith(mark.encode()):
                return True
        except OSError:
            continue  # it has ended meanwhile, or is none of ours
    return False


def contained(lines: list[dict[str, Any]], harm: dict[str, bool]) -> bool:
    attacks = [line for line in lines if "attack" in line]
    return len(attacks) == 13 and all(line["contained"] for line in attacks) and all(harm.values())


def show(lines: list[dict[str, Any]], harm: dict[str, bool]) -> None:
    print("A hostile program (examples/hostile.py) in an Alcove session\n")
    for line in lines:
        if "words" in line:
            print(f"Its work: {line['words']} words counted in LICENSE; the most frequent: {', '.join(line['most'])}\n")
            print("What it tried, and what it got")
        else:
            word = "contained" if line["contained"] else "NOT CONTAINED"
            print(f"  {coloured(word, good=line['contained'])}  {line['attack']:<38} {line['got']}")
    print("\nWhat the host has seen of it")
    for claim, true in harm.items():
        print(f"  {coloured('nothing  ' if true else 'SOMETHING', good=true)}  {claim}")


def coloured(word: str, *, good: bool) -> str:
    return f"\033[{32 if good else 31}m{word}\033[0m" if COLOURS else word


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SandboxError as error:
        sys.exit(f"demo: {error}")
