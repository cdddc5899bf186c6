"""The seccomp programs that every guest runs under: which calls, and why, is in tools/seccomp/policy.toml.

They are data, generated when developing, one for each architecture and variant; the spawner installs one, once.
"""

ARCHITECTURES = ("aarch64", "x86_64")

_HERE = __file__.rpartition("/")[0]
_programs: dict[str, bytes] = {}


def program(arch: str, *, debug: bool, set_id: bool) -> bytes:
    """The program for `arch` (as in `os.uname().machine`): an array of `struct sock_filter`, 8 bytes each.

    `debug` lets processes of a session trace each other. `set_id` lets a guest create set-id files, which must never
    go together with a writable host directory.

    Raises:
        ValueError: there is no program for this architecture.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"no seccomp program for {arch!r}; there is one for {' and '.join(ARCHITECTURES)}")
    name = f"{arch}.{_variant(debug, set_id)}.bpf"
    if name not in _programs:
        _programs[name] = _read(name)
    return _programs[name]


def verdicts(arch: str, *, debug: bool, set_id: bool) -> dict[str, str]:
    """What `program` answers to each call that it knows: ALLOW, EPERM, ENOSYS or BY_ARGUMENT. All others: ENOSYS."""
    import json  # for documentation and tests only, so not on the way to a session

    variant = _variant(debug, set_id)
    table = json.loads(_read("verdicts.json"))
    return {name: call.get(variant, call["verdict"]) for name, call in table.items() if arch in call["numbers"]}


def _variant(debug: bool, set_id: bool) -> str:
    return ".".join(name for name, on in (("debug", debug), ("set_id", set_id)) if on) or "default"


def _read(name: str) -> bytes:
    with open(f"{_HERE}/{name}", "rb") as file:
        return file.read()
