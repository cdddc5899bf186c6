"""What a session may reach, as a command line says it."""

from collections.abc import Iterable

from alcove.cli.failures import warn
from alcove.cli.grammar import Given, Usage
from alcove.contract import Limited, Unrestricted
from alcove.local import LocalSandboxConfig

_NONE = Limited()


def asked(given: Given) -> bool:
    """Tell whether anything is to be allowed."""
    return bool(given.options.get("allow") or given.options.get("allow_packages"))


def policy(given: Given, config: LocalSandboxConfig) -> Unrestricted | Limited:
    """Return the network policy that `given` describes."""
    if not asked(given):
        return Unrestricted() if given["net"] else _NONE
    if given["net"]:
        option = "--allow" if given["allow"] else "--allow-packages"
        raise Usage(
            f"{option} and --net exclude each other: --net shares all of the host's network\n"
            f"  leave out --net, and nothing but what {option} names can be reached"
        )
    return Limited(entries(given, given["allow"], config))


def entries(given: Given, words: Iterable[str], config: LocalSandboxConfig) -> tuple[str, ...]:
    """Return the entries that `words` and `--allow-packages` mean; those of packages are shown."""
    return tuple(dict.fromkeys([*config.expanded(words), *_of_packages(given)]))


def _of_packages(given: Given) -> list[str]:
    tools = list(dict.fromkeys(tool for listed in given["allow_packages"] for tool in listed))
    if not tools:
        return []
    from alcove.egress.names import printable
    from alcove.egress.packages import hosts

    found = hosts(tools)
    if given.options.get("json"):
        _tell_json(found)
        return [host.entry for host in found]
    for tool in tools:
        named = [host for host in found if host.tool == tool]
        for host in named:
            warn(f"{tool} may reach {host.entry} ({printable(host.source)})")
        if not named:
            warn(f"{tool} names no host here: nothing is allowed for it")
    return [host.entry for host in found]


def _tell_json(found: Iterable[object]) -> None:
    import sys

    from msgspec.json import encode

    sys.stderr.write(f"{encode({'allow_packages': list(found)}).decode()}\n")
    sys.stderr.flush()
