"""How a command line is read: options, words, and after `--` a command that is nobody's business but the guest's.

alcove exec -e A=1 my-session --cwd src -- make -j2
       ^command    ^word                   ^argv
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

Parse = Callable[[str], Any]


class Usage(Exception):  # noqa: N818 - not an error of Alcove's, but of how it was called
    """The command line cannot be read; the message says how it would be right."""


class Option:
    """One option: a flag where `value` is empty, else one with an argument that `parse` turns into its value."""

    __slots__ = ("help", "many", "name", "parse", "short", "value")

    def __init__(
        self, name: str, value: str, summary: str, *, parse: Parse = str, short: str = "", many: bool = False
    ) -> None:
        self.name = name
        self.value = value
        self.help = summary
        self.parse = parse
        self.short = short
        self.many = many

    @property
    def key(self) -> str:
        """The name under which the value is found."""
        return self.name.lstrip("-").replace("-", "_")


HELP = Option("--help", "", "show this help", short="-h")


class Command:
    """One command; `words` are its positional arguments as help shows them, `[X]` optional, `X…` many."""

    __slots__ = ("about", "argv", "handler", "hidden", "name", "options", "summary", "words")

    def __init__(
        self,
        name: str,
        handler: str,
        summary: str,
        *,
        words: Sequence[str] = (),
        argv: str = "",
        options: Sequence[Option] = (),
        about: str = "",
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.handler = handler
        self.summary = summary
        self.words = words
        self.argv = argv
        self.options = (*options, HELP)
        self.about = about
        self.hidden = hidden

    @property
    def most_words(self) -> int | None:
        """How many words it takes; None for any number."""
        return None if any(word.rstrip("]").endswith("…") for word in self.words) else len(self.words)

    @property
    def usage(self) -> str:
        """The line that shows how it is called."""
        options = ["[OPTION…]"] if len(self.options) > 1 else []
        command = [self.argv] if self.argv.startswith("[") else ["--", self.argv] if self.argv else []
        return " ".join(["alcove", self.name, *options, *self.words, *command])

    def option(self, name: str) -> Option | None:
        """Return the option of that name, long or short."""
        return next((option for option in self.options if name in {option.name, option.short}), None)


class Given:
    """What a command was given: `options` by key (every key is there), `words`, and `argv` after `--`."""

    __slots__ = ("argv", "command", "options", "words")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.options: dict[str, Any] = {
            option.key: [] if option.many else None if option.value else False for option in command.options
        }
        self.words: list[str] = []
        self.argv: list[str] | None = None

    def __getitem__(self, key: str) -> Any:
        return self.options[key]

    def handler(self) -> Callable[["Given"], int]:
        """Import what the command does."""
        from importlib import import_module

        module, _, name = ("alcove.cli.help:show" if self["help"] else self.command.handler).partition(":")
        function: Callable[[Given], int] = getattr(import_module(module), name)
        return function


class Commands:
    """The table of commands."""

    def __init__(self, rows: Sequence[Command]) -> None:
        self.rows = {command.name: command for command in rows}

    def parse(self, words: Sequence[str]) -> Given:
        """Read a command line, without the program's name.

        Raises:
            Usage: it is not one of this table.
        """
        if not words or words[0] in {"-h", "--help"}:
            return Given(self.rows["help"])
        if words[0] in {"-V", "--version"}:
            return Given(self.rows["version"])
        command = self.find(words)
        if command is None:
            raise Usage(f"there is no command `{words[0]}`{_meant(words[0], self._names())}; see: alcove --help")
        return _Reader(command, words).read()

    def find(self, words: Sequence[str]) -> Command | None:
        """Return the command that a line begins with, by one word or by two (`net allow`)."""
        return self.rows.get(" ".join(words[:2])) or self.rows.get(words[0])

    def below(self, command: Command) -> list[Command]:
        """Return the commands whose first word is that command."""
        return [other for other in self.rows.values() if other.name.startswith(f"{command.name} ")]

    def _names(self) -> list[str]:
        return [command.name for command in self.rows.values() if not command.hidden]


class _Reader:
    def __init__(self, command: Command, words: Sequence[str]) -> None:
        self._command = command
        self._line = words
        self._at = 1 if words[0] == command.name else 2
        self._given = Given(command)

    def read(self) -> Given:
        given = self._given
        while self._at < len(self._line):
            word = self._line[self._at]
            if word == "--":
                given.argv = list(self._line[self._at + 1 :])
                break
            if word.startswith("-") and word != "-":
                self._option(word)
            else:
                self._word(word)
            self._at += 1
        if not given["help"]:
            self._check()
        return given

    def _option(self, word: str) -> None:
        name, equals, value = word.partition("=")
        option = self._command.option(name)
        if option is None:
            names = [option.name for option in self._command.options]
            raise self._wrong(f"there is no option `{name}`{_meant(name, names)}")
        if not option.value:
            if equals:
                raise self._wrong(f"{name} takes no value")
            self._given.options[option.key] = True
            return
        if not equals:
            self._at += 1
            if self._at == len(self._line) or self._line[self._at] == "--":
                raise self._wrong(f"{name} needs a value: {name} {option.value}")
            value = self._line[self._at]
        parsed = _parsed(option, value)
        if option.many:
            self._given.options[option.key].append(parsed)
        else:
            self._given.options[option.key] = parsed

    def _word(self, word: str) -> None:
        command, given = self._command, self._given
        if len(given.words) != command.most_words:
            given.words.append(word)
        elif command.argv:
            right = [*self._line[: self._at], "--", *self._line[self._at :]]
            raise Usage(f"the command goes after `--`: alcove {_quoted(right)}")
        else:
            raise self._wrong(f"one word too many: `{word}`")

    def _check(self) -> None:
        command, given = self._command, self._given
        needed = sum(not word.startswith("[") for word in command.words)
        if len(given.words) < needed:
            raise self._wrong(f"{command.words[len(given.words)]} is missing")
        if command.argv and not command.argv.startswith("[") and not given.argv:
            raise self._wrong("the command is missing")
        if given.argv is not None and not command.argv:
            raise self._wrong("`--` has no meaning here")

    def _wrong(self, what: str) -> Usage:
        return Usage(f"{what}\n  usage: {self._command.usage}\n  more:  alcove {self._command.name} --help")


def _parsed(option: Option, value: str) -> Any:
    try:
        return option.parse(value)
    except ValueError as error:
        raise Usage(f"{option.name} {value}: {error}") from None


def _meant(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _quoted(words: Sequence[str]) -> str:
    from shlex import join

    return join(os.fsdecode(word) for word in words)
