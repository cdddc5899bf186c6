"""What a fork has of its own: the keywords of `Sandbox` that take the place of what the session has."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from msgspec.structs import replace

from alcove.contract import Duration, FilesystemMount, InvalidRequest, Limited, SandboxSpec, Unrestricted

_LIMITS = ("wall_time", "cpu_count", "memory_mb", "idle_timeout")
_FIELDS = (
    *("session_id", "labels", "mounts", "pids", "open_files", "disk_mb", "output_limit", "user"),
    *("best_effort", "set_id"),
)


class Overrides(TypedDict, total=False):
    """As in `Sandbox`; what is left out is as the session has it."""

    session_id: str | None
    labels: Mapping[str, str]
    network: Unrestricted | Limited
    allow: Iterable[str]
    mounts: Iterable[FilesystemMount]
    wall_time: Duration | float | None
    cpu_count: int | None
    memory_mb: int | None
    idle_timeout: Duration | float | None
    pids: int | None
    open_files: int | None
    disk_mb: int | None
    output_limit: int | None
    user: str | None
    best_effort: bool
    set_id: bool


def overridden(
    spec: SandboxSpec, given: Overrides, expanded: Callable[[Iterable[str]], tuple[str, ...]]
) -> SandboxSpec:
    """Return `spec` with what was given in its place; `expanded` writes out the presets of an allow-list.

    Raises:
        InvalidRequest: a value has the wrong type or is out of range, or both `allow` and `network` are given.
    """
    fields: dict[str, Any] = {name: value for name, value in given.items() if name in _FIELDS}
    limits: dict[str, Any] = {name: value for name, value in given.items() if name in _LIMITS}
    if "allow" in given and "network" in given:
        raise InvalidRequest("`allow` is a network policy of its own: give it without `network`, or leave it out")
    if "network" in given:
        fields["network_policy"] = given["network"]
    if "allow" in given:
        fields["network_policy"] = Limited(expanded(given["allow"]))
    return replace(spec, limits=replace(spec.limits, **limits), **fields)


def refuse_unknown(given: Mapping[str, object]) -> None:
    """Refuse keywords that there are none of, as a call does.

    Raises:
        TypeError: there is one.
    """
    for name in given:
        if name not in Overrides.__annotations__:
            raise TypeError(f"fork() got an unexpected keyword argument {name!r}")
