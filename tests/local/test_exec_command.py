# ruff: noqa: ASYNC221, ASYNC240 - small files of the host and one `env`, in between
"""What runs: arguments, search path, builtins, exit codes, start directory, environment."""

import json
import os
import signal
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from alcove.contract import ExecError, InvalidRequest
from alcove.local.backend import LocalSandbox
from tests.local.cell import Cell, live

pytestmark = pytest.mark.user


# Arguments


async def test_a_mebibyte_of_arguments_arrives(cell: Cell) -> None:
    words = [f"{number:07}{'x' * 65_529}" for number in range(16)]
    program = "import sys, hashlib; print(hashlib.sha256('\\0'.join(sys.argv[1:]).encode()).hexdigest(), len(sys.argv))"
    result = await cell.python(program, *words)
    assert sum(map(len, words)) == 1 << 20
    assert result.stdout == f"{sha256(chr(0).join(words).encode()).hexdigest()} 17\n"


async def test_arguments_beyond_the_kernels_total_are_refused(cell: Cell) -> None:
    with pytest.raises(InvalidRequest, match="ARG_MAX"):
        await cell.exec("true", ["x" * 131_000] * 60)
    assert (await cell.sh("exit 0")).success


@pytest.mark.parametrize("size", [131_072, 200_000])
async def test_an_argument_of_128_kib_is_refused_by_name(cell: Cell, size: int) -> None:
    with pytest.raises(InvalidRequest, match=r"MAX_ARG_STRLEN, 128 KiB"):
        await cell.exec("true", ["x" * size])
    assert (await cell.exec("true", ["x" * 131_071])).success


async def test_bytes_that_are_no_utf8_arrive(cell: Cell) -> None:
    word = os.fsdecode(b"a\xff\xfeb")
    result = await cell.python("import os, sys; print(os.fsencode(sys.argv[1]))", word)
    assert result.stdout == "b'a\\xff\\xfeb'\n"


async def test_argv_is_what_was_given(cell: Cell) -> None:
    words = ["", " ", "-n", "--", "a\nb", "$(id)", "'\"\\", "*", "é\u202e", "\x7f\x01"]
    result = await cell.python("import sys, json; print(json.dumps(sys.argv[1:]))", *words)
    assert json.loads(result.stdout) == words


async def test_the_command_is_argv_0(cell: Cell) -> None:
    assert await cell.out("tr '\\0' ' ' < /proc/$$/cmdline") == "sh -c tr '\\0' ' ' < /proc/$$/cmdline sh "


# The search


async def test_the_path_of_the_request_is_searched(cell: Cell) -> None:
    await cell.out("mkdir -p one two; printf '#!/bin/sh\\necho two' > two/tool; chmod +x two/tool; : > one/tool")
    path = "/nowhere:/workspace/one:/workspace/two:/usr/bin:/bin"
    assert (await cell.exec("tool", env={"PATH": path})).stdout == "two\n"
    assert (await cell.exec("tool")).exit_code == 127


async def test_an_empty_part_of_the_path_is_the_start_directory(cell: Cell) -> None:
    await cell.out("mkdir here; printf '#!/bin/sh\\necho here' > here/tool; chmod +x here/tool")
    for path in (":/usr/bin", "/usr/bin:", "/usr/bin::/bin"):
        assert (await cell.exec("tool", env={"PATH": path}, cwd="here")).stdout == "here\n"


async def test_without_a_path_nothing_of_the_working_directory_runs(cell: Cell) -> None:
    await cell.out("printf '#!/bin/sh\\necho here' > tool; chmod +x tool")
    assert (await cell.exec("tool")).exit_code == 127
    assert (await cell.exec("./tool")).stdout == "here\n"


async def test_a_program_in_path_goes_before_a_builtin(cell: Cell) -> None:
    await cell.out("mkdir bin; printf '#!/bin/sh\\necho mine \"$@\"' > bin/umask; chmod +x bin/umask")
    assert (await cell.exec("umask", ["-S"], env={"PATH": "/workspace/bin:/usr/bin:/bin"})).stdout == "mine -S\n"


@pytest.mark.parametrize(
    ("command", "arguments", "shown"),
    [
        ("type", ["cd"], "cd is a"),
        ("ulimit", ["-n"], "4096\n"),
        ("umask", [], "0022\n"),
        ("cd", ["/tmp"], ""),
        ("command", ["-v", "cd"], "cd\n"),
        (":", ["anything"], ""),
        ("eval", ["echo $((1 + 1)) 'a b'"], "2 a b\n"),
        ("exit", ["0"], ""),
        ("trap", [], ""),
        ("wait", [], ""),
    ],
)
async def test_a_builtin_runs_in_a_shell(cell: Cell, command: str, arguments: list[str], shown: str) -> None:
    result = await cell.exec(command, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert shown in result.stdout
    assert bool(result.stdout) == bool(shown)


async def test_dot_is_a_builtin_though_a_directory_has_that_name(cell: Cell) -> None:
    await cell.out("echo 'echo sourced' > script")
    assert (await cell.exec(".", ["./script"])).stdout == "sourced\n"


async def test_a_builtins_arguments_are_not_expanded(cell: Cell) -> None:
    result = await cell.exec("command", ["printf", "%s|", "$HOME", "*", "a b", "`id`"])
    assert result.stdout == "$HOME|*|a b|`id`|"


async def test_a_builtins_exit_code_is_its_own(cell: Cell) -> None:
    assert (await cell.exec("exit", ["42"])).exit_code == 42
    assert (await cell.exec("cd", ["/no/such/place"])).exit_code not in {0, 126, 127}


# Exit codes


@pytest.mark.parametrize("command", ["alcove-none", "/no/such", "./none", "/etc/passwd/below"])
async def test_not_found_is_127(cell: Cell, command: str) -> None:
    result = await cell.exec(command)
    assert (result.exit_code, result.signal, result.stdout) == (127, None, "")
    assert command in result.stderr


async def test_a_missing_interpreter_is_127_and_says_so(cell: Cell) -> None:
    await cell.out("printf '#!/no/such/interpreter\\n' > script; chmod +x script")
    result = await cell.exec("./script")
    assert result.exit_code == 127
    assert "interpreter" in result.stderr


async def test_not_executable_is_126(cell: Cell) -> None:
    await cell.out(": > plain; mkdir -p directory bin; : > bin/tool; printf 'no program' > odd; chmod +x odd")
    for command in ("./plain", "./directory", "/", "./odd"):
        result = await cell.exec(command)
        assert (result.exit_code, result.signal) == (126, None), command
        assert command in result.stderr
    assert (await cell.exec("tool", env={"PATH": "/workspace/bin"})).exit_code == 126


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
async def test_death_by_signal_is_128_and_more(cell: Cell, number: int) -> None:
    result = await cell.python("import os, sys; os.kill(os.getpid(), int(sys.argv[1]))", str(int(number)))
    if number == signal.SIGINT:  # Python makes an exception of it, and kills itself by it at the end
        assert "KeyboardInterrupt" in result.stderr
    assert (result.exit_code, result.signal, result.timed_out) == (128 + number, number, False)


async def test_a_shells_own_128_is_no_signal(cell: Cell) -> None:
    result = await cell.sh("sh -c 'kill -9 $$'; exit $?")
    assert (result.exit_code, result.signal) == (137, None)


async def test_signals_are_as_in_a_fresh_login(cell: Cell) -> None:
    lines = dict(line.split(":\t", 1) for line in (await cell.out("cat /proc/self/status")).splitlines())
    assert {lines[name] for name in ("SigBlk", "SigIgn", "SigPnd", "ShdPnd")} == {"0" * 16}
    # the positive control: what Python ignores here is inherited by whoever does not reset it
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN


async def test_a_closed_pipe_ends_the_writer(cell: Cell) -> None:
    result = await cell.exec("bash", ["-c", 'yes | head -1; echo "${PIPESTATUS[@]}"'])
    assert (result.stdout, result.stderr) == ("y\n141 0\n", "")


# The start directory


async def test_it_starts_in_the_workspace(cell: Cell) -> None:
    assert await cell.out("pwd; echo $HOME") == "/workspace\n/workspace\n"


async def test_a_relative_cwd_is_below_the_workspace(cell: Cell) -> None:
    await cell.out("mkdir -p a/b; ln -s a/b link")
    assert await cell.out("pwd -P", cwd="a/b") == "/workspace/a/b\n"
    assert await cell.out("pwd -P", cwd="link") == "/workspace/a/b\n"
    assert await cell.out("pwd -P", cwd="../tmp") == "/tmp\n"


@pytest.mark.parametrize(
    ("cwd", "reason"),
    [("none", "does not exist"), ("plain", "is not a directory"), ("/etc/passwd", "is not a directory")],
)
async def test_a_cwd_that_is_none_says_which(cell: Cell, cwd: str, reason: str) -> None:
    await cell.out(": > plain")
    with pytest.raises(ExecError) as caught:
        await cell.exec("true", cwd=cwd)
    assert caught.value.detail == f"working directory `{os.path.join('/workspace', cwd)}` {reason}"


async def test_a_cwd_that_may_not_be_entered_says_so(cell: Cell, as_root: bool) -> None:
    await cell.out("mkdir locked; ln -s loop loop")
    with pytest.raises(ExecError, match=r"working directory `/workspace/loop` failed: .*symbolic"):
        await cell.exec("true", cwd="loop")
    if as_root:
        await cell.out("chmod 700 locked")
        with pytest.raises(ExecError, match="locked` failed: Permission denied"):
            await cell.exec("true", cwd="locked", user="1000")


# The environment

BASE = {
    "HOME": "/workspace",
    "USER": "root",
    "LANG": "C.UTF-8",
    "HARN_MEMORY_DIR": "/mnt/memory",
    "HARN_OUTPUTS_DIR": "/mnt/session/outputs",
    "ALCOVE_MEMORY_DIR": "/mnt/memory",
    "ALCOVE_OUTPUTS_DIR": "/mnt/session/outputs",
}


async def environment(cell: Cell, env: dict[str, str]) -> dict[str, str]:
    text = (await cell.exec("/usr/bin/env", ["-0"], env=env)).stdout
    return dict(entry.split("=", 1) for entry in text.split("\0")[:-1])


async def test_the_base_environment_is_exact(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALCOVE_CANARY", "LD_PRELOAD_CANARY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "leaked")
    found = await environment(cell, {})
    path, shell = found.pop("PATH"), found.pop("SHELL")
    assert found == BASE
    assert path.startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert shell in {"/bin/bash", "/bin/sh"}


async def test_the_requests_variables_win(cell: Cell) -> None:
    given = {name: f"given {name}" for name in BASE} | {"SHELL": "", "EMPTY": "", "WITH": "a=b\n'c'"}
    found = await environment(cell, given)
    assert found == {**given, "PATH": found["PATH"]}
    assert (await environment(cell, {"PATH": "/here"}))["PATH"] == "/here"


async def test_the_launcher_has_nothing_of_our_environment(
    backend: LocalSandbox, monkeypatch: pytest.MonkeyPatch, as_root: bool
) -> None:
    monkeypatch.setenv("ALCOVE_CANARY", "leaked")
    async with live(backend) as cell:
        if as_root:  # their /proc files are root's alone
            for role in ("warden", "spawner", "init"):
                assert b"leaked" not in Path(f"/proc/{cell.native(role)}/environ").read_bytes()
        assert "leaked" not in await cell.out("cat /proc/[0-9]*/environ 2>/dev/null; true")
    assert "ALCOVE_CANARY=leaked" in subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
