"""How a command line is read, and what it says when it cannot be."""

import re

import pytest

from alcove.cli.grammar import Usage
from alcove.cli.table import COMMANDS


def refused(line: str) -> str:
    with pytest.raises(Usage) as caught:
        COMMANDS.parse(line.split())
    return str(caught.value)


def test_options_words_and_the_command() -> None:
    given = COMMANDS.parse("exec -e A=1 box --cwd=src --env B=2 --timeout 2m -- make --cwd -j2 --".split())
    assert given.words == ["box"]
    assert given.argv == ["make", "--cwd", "-j2", "--"]
    assert given["env"] == [("A", "1"), ("B", "2")]
    assert (given["cwd"], given["timeout"], given["user"], given["json"]) == ("src", 120.0, None, False)


def test_the_last_of_a_single_option_counts() -> None:
    assert COMMANDS.parse("run --memory 1G --memory 2G -- true".split())["memory"] == 2048


def test_every_option_has_a_value_though_none_was_given() -> None:
    for command in COMMANDS.rows.values():
        given = COMMANDS.parse([command.name, "--help"])
        for option in command.options:
            assert given[option.key] in ([], None, False, True)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("run ls -l", "alcove run -- ls -l"),
        ("run --net python3 -c pass", "alcove run --net -- python3 -c pass"),
        ("exec box ls --json", "alcove exec box -- ls --json"),
    ],
)
def test_missing_dashes_are_shown_in_their_place(line: str, right: str) -> None:
    assert refused(line).endswith(right)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frob", "there is no command `frob`; see: alcove --help"),
        ("exce box -- ls", "there is no command `exce` (did you mean `exec`?)"),
        ("run --memroy 1G -- ls", "there is no option `--memroy` (did you mean `--memory`?)"),
        ("run -x -- ls", "there is no option `-x`"),
        ("run --memory", "--memory needs a value: --memory SIZE"),
        ("run --memory -- ls", "--memory needs a value: --memory SIZE"),
        ("run --net=yes -- ls", "--net takes no value"),
        ("run", "the command is missing"),
        ("run --", "the command is missing"),
        ("exec -- ls", "ID is missing"),
        ("show", "ID is missing"),
        ("show a b", "one word too many: `b`"),
        ("show a -- b", "`--` has no meaning here"),
        ("mount a", "SRC:DST[:ro|rw|cow] is missing"),
        ("run --cpus 1.5 -- ls", "--cpus 1.5: write a whole number, at least 1"),
        ("run --mount=/a -- ls", "--mount /a: write it as SRC:DST, or with :ro, :rw or :cow after it, for example"),
    ],
)
def test_what_is_wrong_is_said(line: str, message: str) -> None:
    assert refused(line).startswith(message)


def test_usage_goes_with_what_is_wrong() -> None:
    assert "usage: alcove exec [OPTION…] ID -- COMMAND [ARGUMENT…]" in refused("exec")


def test_the_table_is_consistent() -> None:
    for command in COMMANDS.rows.values():
        names = [name for option in command.options for name in (option.name, option.short) if name]
        assert len(names) == len(set(names)), command.name
        assert all(re.fullmatch(r"--[a-z-]+|-[a-z]", name) for name in names), command.name
        assert callable(COMMANDS.parse([command.name, "--help"]).handler())
