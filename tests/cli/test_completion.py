"""What a shell offers after Tab, asked of the shells themselves where they are installed."""

import subprocess
from pathlib import Path
from shlex import join

import pytest

from tests.cli.cli import Cli


def offered(alcove: Cli, *words: str) -> list[str]:
    return alcove.out("__complete", "--", *words).splitlines()


def test_commands_options_and_ids(alcove: Cli) -> None:
    alcove.create("--id", "box-1")
    alcove.create("--id", "box-2")
    assert offered(alcove, "") == offered(alcove)
    assert "run" in offered(alcove, "")
    assert "__complete" not in offered(alcove, "")
    assert offered(alcove, "sh") == ["shell", "show"]
    assert offered(alcove, "run", "--m") == ["--mount", "--memory"]
    assert offered(alcove, "exec", "box") == ["box-1", "box-2"]
    assert offered(alcove, "exec", "--cwd", "src", "box") == ["box-1", "box-2"]
    assert offered(alcove, "exec", "box-1", "") == ["--"]
    assert offered(alcove, "rm", "box-1", "box-") == ["box-1", "box-2"]
    assert offered(alcove, "net", "box-1", "") == ["none", "host"]
    assert offered(alcove, "completion", "") == ["bash", "zsh", "fish"]
    # the shell's own file names
    assert offered(alcove, "run", "--mount", "") == offered(alcove, "run", "--", "l") == []
    assert offered(alcove, "mount", "box-1", "") == offered(alcove, "frob", "") == []
    assert offered(alcove, "import", "") == offered(alcove, "export", "base", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_that_shell(alcove: Cli, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(alcove.out("completion", shell))
    assert "alcove __complete --" in script.read_text()
    try:
        done = subprocess.run([shell, "-n", script], capture_output=True, check=False, timeout=20)
    except FileNotFoundError:
        return  # not installed here: the words that it asks for are tested above
    assert (done.returncode, done.stderr) == (0, b"")


def test_bash_completes(alcove: Cli, tmp_path: Path) -> None:
    alcove.create("--id", "box-1")
    (tmp_path / "alcove").write_text(f'#!/bin/sh\nexec {join(alcove.command)} "$@"\n')
    (tmp_path / "alcove").chmod(0o755)
    script = """
        eval "$(alcove completion bash)"
        for words in "alcove exe" "alcove exec bo" "alcove exec box-1 --t"; do
            COMP_WORDS=($words) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _alcove
            echo "${COMPREPLY[@]}"
        done
    """
    environment = alcove.environment | {"PATH": f"{tmp_path}:{alcove.environment['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, env=environment, timeout=50)
    assert done.stdout.decode().splitlines() == ["exec", "box-1", "--timeout"]
