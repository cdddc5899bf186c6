"""Every message verbatim, every code, and that an error survives a pickle and the wire."""

import copy
import pickle

import pytest

import alcove
from alcove import SandboxError
from alcove.contract import ERRORS_BY_CODE
from alcove.contract import errors as errors_module

MESSAGES: list[tuple[SandboxError, str, str]] = [
    (alcove.SessionNotFound("a-1"), "session_not_found", "sandbox session `a-1` was not found"),
    (alcove.Unsupported("local", "snapshots"), "unsupported", "backend `local` does not support snapshots"),
    (alcove.InvalidRequest("x"), "invalid_request", "sandbox request was invalid: x"),
    (alcove.LifecycleError("x"), "lifecycle", "sandbox lifecycle operation failed: x"),
    (alcove.ExecError("x"), "exec", "sandbox exec failed: x"),
    (alcove.NetworkPolicyError("x"), "network_policy", "sandbox network policy failed: x"),
    (alcove.SandboxIoError("x"), "io", "sandbox I/O failed: x"),
    (alcove.JsonError("x"), "json", "sandbox JSON failed: x"),
    (alcove.TaskError("x"), "task", "sandbox task failed: x"),
    (alcove.Unauthorized("x"), "unauthorized", "sandbox request was unauthorized: x"),
    (alcove.Forbidden("x"), "forbidden", "sandbox request was forbidden: x"),
    (alcove.Conflict("x"), "conflict", "sandbox request was in conflict: x"),
    (alcove.RateLimited("x"), "rate_limited", "sandbox request was rate limited: x"),
    (alcove.Unavailable("x"), "unavailable", "sandbox service was unavailable: x"),
]


@pytest.mark.parametrize(("error", "code", "message"), MESSAGES)
def test_message_and_code(error: SandboxError, code: str, message: str) -> None:
    assert (str(error), error.code) == (message, code)
    assert isinstance(error, SandboxError)


@pytest.mark.parametrize(("error", "code", "message"), MESSAGES)
def test_an_error_is_the_same_again(error: SandboxError, code: str, message: str) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), ERRORS_BY_CODE[code](*error.args)):
        assert type(other) is type(error)
        assert str(other) == message
        assert vars(other) == vars(error)


def test_each_code_is_one_class() -> None:
    assert {code for _, code, _ in MESSAGES} == set(ERRORS_BY_CODE)
    assert len(ERRORS_BY_CODE) == len(MESSAGES)


def test_the_tree_in_the_docstring_names_them_all() -> None:
    drawn = (errors_module.__doc__ or "").splitlines()
    for error in ERRORS_BY_CODE.values():
        assert any(error.__name__ in line.split() and error.code in line.split() for line in drawn), error


def test_the_parts_are_kept() -> None:
    unsupported = alcove.Unsupported("fake", "forks")
    assert (unsupported.backend, unsupported.operation) == ("fake", "forks")
    assert alcove.SessionNotFound(alcove.SandboxSessionId("a")).session_id == "a"
    assert alcove.ExecError("why").detail == "why"
