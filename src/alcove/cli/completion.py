"""Completion: a few lines for each shell, which ask `alcove __complete` for the words that can follow."""

from collections.abc import Callable

from alcove.cli.grammar import Command, Given, Usage
from alcove.cli.local import with_backend
from alcove.cli.table import COMMANDS
from alcove.local.exec.terminal import TerminalSandbox

# The last word is the one that is being typed, empty at its beginning. No answer: the shell's own file names.
_SCRIPTS = {
    "bash": """_alcove() {
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(alcove __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" \\
        -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _alcove alcove
""",
    "zsh": """#compdef alcove
_alcove() {
    local -a found
    found=(${(f)"$(alcove __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _default; fi
}
if [ "$funcstack[1]" = _alcove ]; then _alcove "$@"; else compdef _alcove alcove; fi
""",
    "fish": """function __alcove_complete
    set -l typed (commandline -opc)
    alcove __complete -- $typed[2..] (commandline -ct) 2>/dev/null
end
complete -c alcove -f -n 'count (__alcove_complete)' -a '(__alcove_complete)'
""",
}


def completion(given: Given) -> int:
    """Print a shell's script."""
    shell = given.words[0]
    if shell not in _SCRIPTS:
        raise Usage(f"there is completion for bash, zsh and fish, not for `{shell}`")
    print(_SCRIPTS[shell], end="")
    return 0


def complete(given: Given) -> int:
    """Print what the last word can become, one a line."""
    words = given.argv or [""]
    for candidate in candidates(words, given):
        if candidate.startswith(words[-1]):
            print(candidate)
    return 0


def candidates(words: list[str], given: Given) -> list[str]:
    """Return all that can stand in the place of the last of `words`."""
    if len(words) == 1:
        return [name for name, command in COMMANDS.rows.items() if not command.hidden and " " not in name]
    command = COMMANDS.find(words[:-1])
    if command is None:
        return []
    before = words[len(command.name.split()) : -1]
    if "--" in before:
        return []
    if before and (option := command.option(before[-1])) and option.value:
        return _references(given) if option.value == "REF" else []
    if words[-1].startswith("-"):
        return [option.name for option in command.options]
    found = [] if before else [other.name.split()[1] for other in COMMANDS.below(command)]
    return [*found, *_positional(command, before, given)]


def _words(command: Command, before: list[str]) -> list[str]:
    taken = []
    skip = False
    for word in before:
        if skip:
            skip = False
        elif word.startswith("-"):
            option = command.option(word)
            skip = bool(option and option.value)
        else:
            taken.append(word)
    return taken


def _positional(command: Command, before: list[str], given: Given) -> list[str]:
    words = _words(command, before)
    index = len(words)
    if not command.words or (command.most_words is not None and index >= command.most_words):
        return ["--"] if command.argv else []
    word = command.words[min(index, len(command.words) - 1)].strip("[]")
    if word.startswith("ID"):
        return _ids(given)
    if word.startswith("REF"):
        return _references(given)
    if word.startswith("FILE"):
        return []  # the shell completes names of files by itself
    if command.name == "net deny":
        return _allowed(words[0], given)
    return word.split("|") if "|" in word and ":" not in word else []


def _ids(given: Given) -> list[str]:
    return _asked(given, lambda backend: [session.id for session in backend.sessions()])


def _references(given: Given) -> list[str]:
    """Names first: those are what people remember."""
    found = _asked(given, lambda backend: [name for one in backend.snapshots() if (name := one.metadata.get("name"))])
    return found + _asked(given, lambda backend: [one.snapshot_id for one in backend.snapshots()])


def _allowed(session_id: str, given: Given) -> list[str]:
    """The entries that can be taken out."""
    return _asked(given, lambda backend: backend.session(session_id).metadata.get("allowed_hosts", "").split())


def _asked(given: Given, ask: Callable[[TerminalSandbox], list[str]]) -> list[str]:
    found: list[str] = []

    async def work(backend: TerminalSandbox) -> int:
        found.extend(ask(backend))
        return 0

    with_backend(given, work)
    return found
