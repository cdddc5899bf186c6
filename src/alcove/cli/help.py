"""The help texts, made from the table."""

from shutil import get_terminal_size
from textwrap import wrap

from alcove.cli.grammar import Given, Option
from alcove.cli.table import COMMANDS

_COLUMN = 28
_WIDEST = 110


def overview(_: Given) -> int:
    """Print what there is."""
    rows = [(command.name, command.summary) for command in COMMANDS.rows.values() if not command.hidden]
    print("Alcove runs commands that nobody trusts, in sessions that are strict enough to leave alone.\n")
    print("Usage: alcove COMMAND [OPTION…]\n")
    _print_rows(rows, column=14)
    print("\nTry: alcove run -- python3 -c 'print(6 * 7)'\nMore: alcove COMMAND --help")
    return 0


def show(given: Given) -> int:
    """Print one command's help."""
    command = given.command
    print(f"Usage: {command.usage}\n\n{command.summary[:1].upper()}{command.summary[1:]}.\n")
    _print_rows([(_spelled(option), option.help) for option in command.options], column=_COLUMN)
    if below := COMMANDS.below(command):
        print()
        _print_rows([(other.usage, other.summary) for other in below], column=_COLUMN)
    if command.about:
        print("", *wrap(command.about, _width()), sep="\n")
    return 0


def version(_: Given) -> int:
    """Print the version."""
    from alcove import __version__

    print(f"alcove {__version__}")
    return 0


def _spelled(option: Option) -> str:
    names = f"{option.short}, {option.name}" if option.short else f"    {option.name}"
    return f"{names} {option.value}" if option.value else names


def _width() -> int:
    return min(get_terminal_size().columns, _WIDEST)


def _print_rows(rows: list[tuple[str, str]], *, column: int) -> None:
    for name, text in rows:
        lines = wrap(text, max(20, _width() - column - 2))
        if len(name) > column - 2:
            print(f"  {name}")
        else:
            print(f"  {name.ljust(column)}{lines.pop(0)}")
        for line in lines:
            print(f"  {'':{column}}{line}")
