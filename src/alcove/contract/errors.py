"""Every error that Alcove raises, by whose fault it is; `code` is stable on the wire, `str(error)` is the contract's.

    SandboxError
    ├── the caller's
    │   ├── SessionNotFound      session_not_found   no live session has that id
    │   ├── InvalidRequest       invalid_request     the request itself cannot be right
    │   ├── Unsupported          unsupported         this backend cannot do that, and says so
    │   └── JsonError            json                bytes that are not a value of the contract, or the reverse
    ├── the sandbox's
    │   ├── LifecycleError       lifecycle           provision, suspend, resume, snapshot or terminate failed
    │   ├── ExecError            exec                the command could not be started or followed
    │   ├── NetworkPolicyError   network_policy      the policy could not be enforced; the old one stays
    │   ├── SandboxIoError       io                  the host's files or sockets failed
    │   └── TaskError            task                a task of ours ended without an answer
    ├── nobody's
    │   └── Conflict             conflict            another call holds what this one needs, here or on the way there
    └── the way there (a server or a fleet between caller and sandbox)
        ├── Unauthorized         unauthorized        no credential, or one that is not known
        ├── Forbidden            forbidden           a known caller without that right
        ├── RateLimited          rate_limited        over the caller's share
        └── Unavailable          unavailable         nobody there to answer, for now

A command that fails is none of these: it is an `ExecResult`. The names are the contract's (hence N818 below).
"""

from typing import ClassVar


class SandboxError(Exception):
    """The root of every error of ours; `args` are the constructor's, so each one pickles and copies."""

    code: ClassVar[str] = "sandbox"


class SessionNotFound(SandboxError):  # noqa: N818
    """No live session has the id `session_id`."""

    code: ClassVar[str] = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(str(session_id))
        self.session_id = str(session_id)

    def __str__(self) -> str:
        return f"sandbox session `{self.session_id}` was not found"


class Unsupported(SandboxError):  # noqa: N818
    """The backend named `backend` cannot do `operation`, a noun phrase that may end with the next step."""

    code: ClassVar[str] = "unsupported"

    def __init__(self, backend: str, operation: str) -> None:
        super().__init__(backend, operation)
        self.backend = backend
        self.operation = operation

    def __str__(self) -> str:
        return f"backend `{self.backend}` does not support {self.operation}"


class DetailedError(SandboxError):
    """An error with a fixed beginning, `prefix`, and a free rest, `detail`."""

    prefix: ClassVar[str] = "sandbox failed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.prefix}: {self.detail}"


class InvalidRequest(DetailedError):  # noqa: N818
    """The request cannot be right, whatever the backend."""

    code: ClassVar[str] = "invalid_request"
    prefix: ClassVar[str] = "sandbox request was invalid"


class LifecycleError(DetailedError):
    """A session could not be made, suspended, resumed, copied or ended."""

    code: ClassVar[str] = "lifecycle"
    prefix: ClassVar[str] = "sandbox lifecycle operation failed"


class ExecError(DetailedError):
    """A command could not be started, or its end could not be told."""

    code: ClassVar[str] = "exec"
    prefix: ClassVar[str] = "sandbox exec failed"


class NetworkPolicyError(DetailedError):
    """A network policy could not be put in force."""

    code: ClassVar[str] = "network_policy"
    prefix: ClassVar[str] = "sandbox network policy failed"


class SandboxIoError(DetailedError):
    """The host's own files or sockets failed under the sandbox."""

    code: ClassVar[str] = "io"
    prefix: ClassVar[str] = "sandbox I/O failed"


class JsonError(DetailedError):
    """Bytes that are not a value of the contract, or a value that has no bytes."""

    code: ClassVar[str] = "json"
    prefix: ClassVar[str] = "sandbox JSON failed"


class TaskError(DetailedError):
    """A task of ours ended without an answer."""

    code: ClassVar[str] = "task"
    prefix: ClassVar[str] = "sandbox task failed"


class Unauthorized(DetailedError):  # noqa: N818
    """The caller showed no credential, or one that is not known."""

    code: ClassVar[str] = "unauthorized"
    prefix: ClassVar[str] = "sandbox request was unauthorized"


class Forbidden(DetailedError):  # noqa: N818
    """The caller is known and may not do this."""

    code: ClassVar[str] = "forbidden"
    prefix: ClassVar[str] = "sandbox request was forbidden"


class Conflict(DetailedError):  # noqa: N818
    """Another call holds what this one needs."""

    code: ClassVar[str] = "conflict"
    prefix: ClassVar[str] = "sandbox request was in conflict"


class RateLimited(DetailedError):  # noqa: N818
    """The caller is over its share."""

    code: ClassVar[str] = "rate_limited"
    prefix: ClassVar[str] = "sandbox request was rate limited"


class Unavailable(DetailedError):  # noqa: N818
    """Nobody there to answer, for now."""

    code: ClassVar[str] = "unavailable"
    prefix: ClassVar[str] = "sandbox service was unavailable"


_ALL: tuple[type[SandboxError], ...] = (
    SessionNotFound,
    InvalidRequest,
    Unsupported,
    JsonError,
    LifecycleError,
    ExecError,
    NetworkPolicyError,
    SandboxIoError,
    TaskError,
    Unauthorized,
    Forbidden,
    Conflict,
    RateLimited,
    Unavailable,
)

#: The error class of each wire code; `ERRORS_BY_CODE[error.code](*error.args)` is the same error again.
ERRORS_BY_CODE: dict[str, type[SandboxError]] = {error.code: error for error in _ALL}
