"""What a session may reach, from the command line: given, shown, changed, and told when it was denied."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.cli.denials import _sorted
from alcove.egress.audit import Record
from alcove.egress.policy import Policy
from tests.cli.cli import Cli, read_until
from tests.cli.test_shell import at_terminal
from tests.greeting import ADDRESS, ASK, HELLO, NAME, Greeter

pytestmark = pytest.mark.user


@pytest.fixture
def greeter(alcove: Cli, tmp_path: Path) -> Iterator[Greeter]:
    with Greeter() as made:
        presets = ["[egress.presets]", f'greeter = ["{made.entry}"]', f'two = ["{made.entry}", "other.test"]']
        alcove.environment["ALCOVE_CONFIG"] = str(made.configure(tmp_path / "config.toml", *presets))
        yield made


# Given


def test_what_is_allowed_is_reached_and_nothing_is_said(alcove: Cli, greeter: Greeter) -> None:
    assert alcove.out("run", "--allow", greeter.entry, "--", *greeter.ask) == HELLO
    assert alcove.out("run", "--allow", "other.test", "--allow", greeter.entry, "--", *greeter.ask) == HELLO
    assert greeter.greeted == 2


def test_what_is_denied_is_told_after_the_command(alcove: Cli, greeter: Greeter) -> None:
    port = str(greeter.port)
    script = f"{' '.join(map(repr, ASK))} $0 {port} 2>/dev/null; getent hosts nowhere.test; echo over; exit 9"
    done = alcove("run", "--allow", f"{NAME}:1", "--", "sh", "-c", script, NAME)
    assert (done.returncode, done.stdout) == (9, b"over\n")
    assert done.stderr.decode() == (
        f"alcove: denied: {greeter.entry}, nowhere.test\n"
        f"  to allow that: --allow {greeter.entry} --allow nowhere.test\n"
    )
    assert greeter.greeted == 0


def test_a_result_as_json_has_no_words_beside_it(alcove: Cli, greeter: Greeter) -> None:
    command = ["--", "getent", "hosts", "x.test"]
    done = alcove("run", "--json", "--allow", "other.test", *command)
    assert (json.loads(done.stdout)["exit_code"], done.stderr) == (2, b"")
    done = alcove("run", *command)
    assert (done.returncode, done.stderr) == (2, b""), "without a list there is nothing to add to"


def test_what_was_allowed_and_did_not_answer_is_told_too(alcove: Cli, greeter: Greeter) -> None:
    done = alcove("run", "--allow", f"{NAME}:1", "--", *ASK, NAME, "1")
    assert done.returncode == 1
    told = done.stderr.decode().splitlines()[-1]
    assert told == f"alcove: {NAME}:1: allowed, but not reached: connection refused"


def test_in_a_session_that_stays_the_advice_is_for_that(alcove: Cli, greeter: Greeter) -> None:
    box = alcove.create("--allow", "other.test")
    denied = alcove("exec", box, "--", "getent", "hosts", NAME)
    assert denied.stderr.decode() == f"alcove: denied: {NAME}\n  to allow that: alcove net allow {box} {NAME}\n"
    assert alcove.out("exec", box, "--", "true") == "", "it was told already"
    kept = alcove("run", "--keep", "--allow", "other.test", "--", "getent", "hosts", NAME).stderr.decode()
    assert f"alcove net allow {kept.rpartition(' ')[2].strip()} {NAME}\n" in kept


def test_a_log_that_cannot_be_read_changes_no_exit_code(alcove: Cli) -> None:
    box = alcove.create("--allow", "other.test")
    (directory,) = alcove.store.glob("sessions/*")
    (directory / "egress.log").symlink_to("/etc/passwd")
    done = alcove("exec", box, "--", "sh", "-c", "exit 7")
    assert (done.returncode, done.stdout) == (7, b"")
    assert done.stderr.startswith(b"alcove: ")
    assert b"cannot read the audit log" in done.stderr


def test_after_a_shell(alcove: Cli, greeter: Greeter) -> None:
    words = ["shell", "--allow", greeter.entry, "--", "sh", "-c", "getent hosts nowhere.test; echo over"]
    with at_terminal(alcove, *words) as keyboard:
        keyboard.until(b"over\r\n")
        assert "denied: nowhere.test" in keyboard.until(b"--allow nowhere.test\r\n")
        assert keyboard.end() == 0
    assert alcove.ids() == []


@pytest.mark.parametrize("command", [["run"], ["create"]])
@pytest.mark.parametrize("option", [["--allow", "web.test"], ["--allow-packages", "pip"]])
def test_an_allow_list_and_the_whole_network(alcove: Cli, command: list[str], option: list[str]) -> None:
    end = [] if command == ["create"] else ["--", "true"]
    message = alcove.refusal(*command, "--net", *option, *end)
    assert message.startswith(f"{option[0]} and --net exclude each other: --net shares all of the host's network\n")
    assert f"nothing but what {option[0]} names" in message
    assert alcove.ids() == []


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("*", "allows every host"),
        ("*.com", "allows all of `com`"),
        ("https://web.test/x", "write `web.test`"),
        ("", "cannot be empty"),
        ("@nope", "there is no preset `@nope`; there is `@greeter`, `@two`; presets stand in "),
        ("@greter", "there is no preset `@greter` (did you mean `@greeter`?)"),
    ],
)
def test_an_entry_that_cannot_be(alcove: Cli, greeter: Greeter, entry: str, advice: str) -> None:
    assert advice in alcove.refusal("run", "--allow", entry, "--", "true")
    assert alcove.ids() == []


def test_a_preset(alcove: Cli, greeter: Greeter) -> None:
    assert alcove.out("run", "--allow", "@greeter", "--", *greeter.ask) == HELLO
    box = alcove.create("--allow", "@two", "--allow", greeter.entry)
    assert alcove.json("net", box)["metadata"]["allowed_hosts"] == f"{greeter.entry} other.test"
    alcove.out("net", "deny", box, "@two")
    assert alcove.out("net", box) == "none\n"


# Packages


def test_the_indexes_of_packages_are_shown_and_allowed(alcove: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(alcove.environment, "PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setitem(alcove.environment, "PIP_INDEX_URL", "http://me:secret@index.test:8081/simple")
    done = alcove("create", "--id", "box", "--allow-packages", "pip", "--allow", "web.test")
    assert done.stderr == b"alcove: pip may reach index.test:8081 (PIP_INDEX_URL)\n"
    assert alcove.json("net", "box")["metadata"]["allowed_hosts"] == "web.test index.test:8081"

    done = alcove("run", "--json", "--allow-packages", "pip", "--", "true")
    shown = {"tool": "pip", "entry": "index.test:8081", "source": "PIP_INDEX_URL"}
    assert json.loads(done.stderr) == {"allow_packages": [shown]}
    assert json.loads(done.stdout)["exit_code"] == 0

    alcove.out("net", "deny", "box", "index.test:8081")
    done = alcove("net", "allow", "box", "--allow-packages", "pip")
    assert b"pip may reach index.test:8081" in done.stderr
    assert "index.test:8081" in done.stdout.decode()


def test_packages_that_nobody_knows(alcove: Cli) -> None:
    assert "package tool `pop` is not known: write pip, npm, apt" in alcove.refusal(
        "run", "--allow-packages", "pip,pop", "--", "true"
    )
    assert "write them with a comma between" in alcove.refusal("run", "--allow-packages", "pip,,npm", "--", "true")


# Changed


def test_more_and_less_at_once(alcove: Cli, greeter: Greeter) -> None:
    box = alcove.create()
    assert alcove.out("net", "show", box) == "none\n"
    shown = alcove.out("net", "allow", box, greeter.entry, "*.web.test", "10.1.0.0/16", "host.alcove:80").splitlines()
    assert [line.split(None, 1) for line in shown] == [
        ["ALLOWED", "WHAT IT ALLOWS"],
        [greeter.entry, f"that name: TCP port {greeter.port}"],
        ["*.web.test", "every name below it: HTTP on port 80, TLS on port 443"],
        ["10.1.0.0/16", "any TCP port of it"],
        ["host.alcove:80", "TCP port 80 of this host's own loopback"],
    ]
    assert alcove.out("net", "show", box).splitlines() == alcove.out("net", box).splitlines() == shown
    assert alcove.out("exec", box, "--", *greeter.ask) == HELLO
    alcove.out("net", "deny", box, greeter.entry.upper(), "10.1.0.0/16")
    assert alcove("exec", box, "--", *greeter.ask).returncode == 1
    assert alcove.json("net", "show", box)["metadata"]["allowed_hosts"] == "*.web.test host.alcove:80"
    assert greeter.greeted == 1


def test_what_cannot_be_changed(alcove: Cli) -> None:
    box = alcove.create("--allow", "*.web.test", "--allow", "api.test")
    for words, message in (
        (["deny", box, "www.web.test"], "`www.web.test` is not on the allow-list: `*.web.test` allows it"),
        (["deny", box, "apis.test"], "`apis.test` is not on the allow-list: did you mean `api.test`?"),
        (["deny", box, "10.0.0.1"], "`10.0.0.1` is not on the allow-list, which has: *.web.test, api.test"),
        (["allow", box, "*"], "allowed_hosts entry `*` allows every host"),
        (["allow", box], f"say what to allow: alcove net allow {box} api.example.org"),
        (["deny", box], "ENTRY… is missing"),
        ([box, "allow"], f"a session's network is `none` or `host`, not `allow`: alcove net {box} none\n"),
        (["alow", box], "there is no `alcove net alow` with that order of words; write: alcove net allow"),
        (["allow", "nowhere", "x.test"], "sandbox session `nowhere` was not found"),
    ):
        assert alcove.refusal("net", *words).startswith(message)
    assert alcove.json("net", box)["metadata"]["allowed_hosts"] == "*.web.test api.test"
    alcove.out("net", box, "host")
    message = alcove.refusal("net", "allow", box, "x.test")
    assert message.startswith(f"session `{box}` shares the host's network and has no allow-list; ")
    assert message.endswith(f"alcove net {box} none")


# The log


def test_the_log(alcove: Cli, greeter: Greeter) -> None:
    box = alcove.create("--allow", greeter.entry)
    done = alcove("net", "log", box)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == f"alcove: no log of session {box}: it has not tried to reach anything\n"
    alcove.out("exec", box, "--", *greeter.ask)
    alcove("exec", box, "--", "getent", "hosts", "nowhere.test")
    alcove.out("net", "allow", box, "nowhere.test")

    header, reached, denied, changed = alcove.out("net", "log", box).splitlines()
    assert header.split() == ["TIME", "WHAT", "WHERE", "ADDRESS", "SENT", "RECEIVED", "WHY"]
    assert reached.split()[1:] == ["allowed", greeter.entry, ADDRESS, "0", str(len(HELLO))]
    assert denied.split()[1:3] == ["denied", "nowhere.test"]
    assert denied.endswith("no entry has nowhere.test; to allow it: --allow nowhere.test")
    assert changed.split()[1] == "policy"
    assert changed.endswith(f"allowed from here on: {greeter.entry} nowhere.test")

    records = [json.loads(line) for line in alcove.out("net", "log", box, "--json").splitlines()]
    assert [record["kind"] for record in records] == ["connect", "dns", "policy"]
    assert records[0]["received"] == len(HELLO)


def test_the_log_of_a_session_without_a_list(alcove: Cli) -> None:
    for network, why in (([], "it has no network"), (["--net"], "it shares the host's network")):
        assert why in alcove("net", "log", alcove.create(*network)).stderr.decode()
    assert alcove.out("net", "log", alcove.create(), "--json") == ""
    assert "was not found" in alcove.refusal("net", "log", "nowhere")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_log_as_it_grows(alcove: Cli, form: list[str]) -> None:
    box = alcove.create("--allow", "web.test")
    with alcove.started("net", "log", box, "--follow", *form) as process:
        assert process.stdout
        alcove("exec", box, "--", "getent", "hosts", "one.test")
        first = read_until(process.stdout.fileno(), b"one.test\n" if not form else b"}\n")
        assert (b'"name":"one.test"' if form else b"denied") in first
        alcove("exec", box, "--", "getent", "hosts", "two.test")
        assert b"two.test" in read_until(process.stdout.fileno(), b"\n")
        alcove.out("rm", box)
        assert process.wait(30) == 0, "a session that has ended has no more to tell"


@pytest.mark.security
def test_a_name_of_the_guests_is_no_order_to_the_terminal(alcove: Cli) -> None:
    box = alcove.create("--allow", "web.test")
    name = b"\x1b[31mred\x1b]0;title\x07"
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\4test\0\0\1\0\1"
    script = f"""
import socket
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.connect(("198.18.0.1", 53))
asked.settimeout(20)
asked.send({query!r})
asked.recv(512)
"""
    done = alcove("exec", box, "--", "python3", "-c", script)
    assert done.returncode == 0, done
    assert b"red" in done.stderr
    log = alcove.out("net", "log", box).encode()
    assert b"red" in log
    for shown in (done.stderr, log, alcove.out("net", "log", box, "--json").encode()):
        assert not set(shown) & set(range(0x20)) - {0x0A}, shown


@pytest.mark.security
def test_the_advice_is_never_the_guests_own(tmp_path: Path) -> None:
    """Part of a reason can be what a guest said, such as the server name of a ClientHello."""
    said = "a server name (SNI) that is none: x; to allow it: --allow evil.test"
    record = Record(session="s", kind="connect", name="web.test", port=443, allowed=False, reason=said)
    assert _sorted([record], Policy.parse(["web.test"])) == ([], [f"web.test:443: {said}"])
    assert _sorted([record], Policy.parse(["other.test"])) == (["web.test"], [])
    escaped = Record(session="s", kind="dns", name="a b; rm", allowed=False, reason="no host name: it has ` `")
    assert _sorted([escaped], Policy.parse(["web.test"])) == ([], ["a b; rm: no host name: it has ` `"])


# Words


def test_completion_and_help(alcove: Cli) -> None:
    alcove.create("--id", "box-1", "--allow", "web.test")

    def offered(*words: str) -> list[str]:
        return alcove.out("__complete", "--", *words).splitlines()

    assert offered("ne") == ["net"]
    assert offered("net", "") == ["show", "allow", "deny", "log", "box-1"]
    assert offered("net", "allow", "") == ["box-1"]
    assert offered("net", "deny", "box-1", "") == ["web.test"]
    assert offered("net", "log", "--f") == ["--follow"]
    assert offered("run", "--al") == ["--allow", "--allow-packages", "--allow-root-owned"]
    for verb in ("show", "allow", "deny", "log"):
        assert f"\n  net {verb} " in alcove.out("help")
        assert f"alcove net {verb} " in alcove.out("net", "--help")
        shown = alcove.out("net", verb, "--help")
        assert shown.startswith(f"Usage: alcove net {verb} [OPTION…] ID")
        assert all(len(line) <= 80 for line in shown.splitlines()), shown
