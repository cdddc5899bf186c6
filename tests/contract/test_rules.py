"""The rules, their messages verbatim, and the texts that every backend builds alike."""

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove import (
    Duration,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    Limited,
    ResourceLimits,
    SandboxSpec,
    Unrestricted,
)
from alcove.contract import rules


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.detail


@pytest.mark.parametrize(
    ("target", "normalized"),
    [
        ("/data", "/data"),
        ("/data///", "/data"),
        ("  /data/ \t", "/data"),
        ("\u00a0/data\u3000", "/data"),
        ("/a//b", "/a//b"),
        ("/a/./b", "/a/./b"),
        ("/a b/c", "/a b/c"),
        ("/a /", "/a "),
        ("/..a/b..", "/..a/b.."),
        ("//a", "//a"),
    ],
)
def test_a_mount_target_is_normalized(target: str, normalized: str) -> None:
    assert rules.normalized_mount_target(target) == normalized


@pytest.mark.parametrize("target", ["", " ", "/", "///", " / ", "data", "./data", "\x1f/data"])
def test_a_mount_target_is_absolute(target: str) -> None:
    assert refused(rules.normalized_mount_target, target) == f"mount target `{target}` must be absolute"


@pytest.mark.parametrize("target", ["/..", "/a/..", "/a/../b", " /../ "])
def test_a_mount_target_has_no_parent_component(target: str) -> None:
    assert (
        refused(rules.normalized_mount_target, target) == f"mount target `{target}` must not contain a `..` component"
    )


@pytest.mark.parametrize("target", ["/.", "/./", "//./"])
def test_the_root_by_another_name_is_no_target(target: str) -> None:
    assert refused(rules.validate_mount, FilesystemMount("", target)) == f"mount target `{target}` must be absolute"


@pytest.mark.parametrize(("one", "other"), [("/a", "/a/"), ("/a/b", "/a//b"), ("/a/b", "//a/./b"), ("/a", " /a ")])
def test_targets_compare_collapsed(one: str, other: str) -> None:
    mounts = [FilesystemMount("", one), FilesystemMount("", other)]
    assert refused(rules.validate_spec, SandboxSpec(mounts=mounts)) == f"mount target `{other}` is already mounted"


def test_the_memory_is_replaced_once_and_the_outputs_never() -> None:
    memory, outputs = FilesystemMount("", "/mnt//memory/"), FilesystemMount("", "/mnt/session/outputs")
    assert rules.mount_targets([memory]) == ("/mnt//memory",)
    assert rules.replaces_memory_mount("/mnt//memory")
    assert "already mounted" in refused(rules.mount_targets, [memory, memory])
    assert "already mounted" in refused(rules.mount_targets, [outputs])


@pytest.mark.parametrize(
    ("mount", "detail"),
    [
        (FilesystemMount("srv", "/a"), "mount source `srv` must be absolute, or empty for a fresh directory"),
        (FilesystemMount("/s\0", "/a"), "mount source must not contain NUL"),
        (FilesystemMount("", "/a\0"), "mount target must not contain NUL"),
        (
            FilesystemMount("/s", "/a", FilesystemAccess.READ_WRITE, copy_on_write=True),
            "mount target `/a`: copy_on_write goes with access read_only",
        ),
    ],
)
def test_a_mount_that_breaks_a_rule(mount: FilesystemMount, detail: str) -> None:
    assert refused(rules.validate_mount, mount) == detail


@pytest.mark.parametrize(
    ("value", "quoted"), [("a'b", "'a'\"'\"'b'"), ("", "''"), ("plain", "'plain'"), ("a b", "'a b'")]
)
def test_sh_quote(value: str, quoted: str) -> None:
    assert rules.sh_quote(value) == quoted


@given(st.text(st.characters(exclude_characters="\0")))
def test_sh_quote_is_one_word(value: str) -> None:
    assert shlex.split(rules.sh_quote(value)) == [value]


def test_sh_quote_in_a_shell() -> None:
    value = "a'b\"c$d`e\\f\ng*h '"
    shown = subprocess.run(
        ["sh", "-c", f"printf %s {rules.sh_quote(value)}"], capture_output=True, check=True, text=True
    )
    assert shown.stdout == value


def test_harn_string() -> None:
    assert rules.harn_string('a\\b"c\nd\re\tf') == '"a\\\\b\\"c\\nd\\re\\tf"'
    assert rules.harn_string("") == '""'
    assert rules.harn_string("é\x01${x}") == '"é\x01${x}"'


@pytest.mark.parametrize(("duration", "secs"), [(Duration(0), 1), (Duration(0, 999_999_999), 1), (Duration(7, 5), 7)])
def test_duration_secs(duration: Duration, secs: int) -> None:
    assert rules.duration_secs(duration) == secs


@pytest.mark.parametrize("session_id", ["a", "0", "A.b_c-d", "a" * 128])
def test_a_session_id_of_the_pattern(session_id: str) -> None:
    assert rules.validate_session_id(session_id) == session_id


@pytest.mark.parametrize("session_id", [".", "..", "-a", "_a", "a/b", "a b", "ä", "a\n", "a" * 129, "a\0"])
def test_a_session_id_out_of_pattern(session_id: str) -> None:
    assert refused(rules.validate_session_id, session_id).startswith("session id ")
    assert refused(rules.validate_spec, SandboxSpec(session_id)).startswith("session id ")


def test_a_blank_session_id() -> None:
    assert refused(rules.validate_session_id, "  ") == "session id cannot be empty"


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        (SandboxSpec(limits=ResourceLimits(cpu_count=0)), "cpu_count must be at least 1"),
        (SandboxSpec(limits=ResourceLimits(memory_mb=0)), "memory_mb must be at least 1"),
        (SandboxSpec(limits=ResourceLimits(wall_time=0)), "wall_time must be more than 0"),
        (SandboxSpec(pids=0), "pids must be at least 1"),
        (SandboxSpec(open_files=0), "open_files must be at least 1"),
        (SandboxSpec(disk_mb=0), "disk_mb must be at least 1"),
        (SandboxSpec(labels={"": "a"}), "label key cannot be empty"),
        (SandboxSpec(labels={"a": "\0"}), "label `a` must not contain NUL"),
        (SandboxSpec(labels={"a\0": ""}), "label key must not contain NUL"),
        (SandboxSpec(network_policy=Limited([""])), "allowed_hosts entry cannot be empty"),
        (SandboxSpec(network_policy=Limited(["a b"])), "allowed_hosts entry 'a b' must not contain white space or NUL"),
        (SandboxSpec(rootfs=""), "rootfs must be `host`, `snapshot:ID` or `image:REF`, got ''"),
        (SandboxSpec(rootfs="snapshot:"), "rootfs must be `host`, `snapshot:ID` or `image:REF`, got 'snapshot:'"),
        (SandboxSpec(rootfs="Host"), "rootfs must be `host`, `snapshot:ID` or `image:REF`, got 'Host'"),
        (SandboxSpec(user=""), "user '' must be a user name or a uid below 4294967295"),
        (SandboxSpec(user="4294967295"), "user '4294967295' must be a user name or a uid below 4294967295"),
        (SandboxSpec(user="a:b"), "user 'a:b' must be a user name or a uid below 4294967295"),
    ],
)
def test_a_spec_that_breaks_a_rule(spec: SandboxSpec, detail: str) -> None:
    assert refused(rules.validate_spec, spec).startswith(detail)


@pytest.mark.parametrize(
    "spec",
    [
        SandboxSpec(),
        SandboxSpec("job-1", {"a": ""}, Unrestricted(), [FilesystemMount("/srv", "/a", copy_on_write=True)]),
        SandboxSpec(network_policy=Limited(["example.com:443", "10.0.0.0/8", "[::1]:80"])),
        SandboxSpec(rootfs="image:registry.example/debian:12@sha256:ab", output_limit=0, user="0", pids=1),
        SandboxSpec(limits=ResourceLimits(0.5, 1, 1, 0)),
    ],
)
def test_a_spec_within_the_rules(spec: SandboxSpec) -> None:
    rules.validate_spec(spec)


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        (ExecRequest(""), "exec command cannot be empty"),
        (ExecRequest(" \n"), "exec command cannot be empty"),
        (ExecRequest("a", env={"1A": ""}), "invalid environment key `1A`"),
        (ExecRequest("a", env={"": ""}), "invalid environment key ``"),
        (ExecRequest("a", env={"A=B": ""}), "invalid environment key `A=B`"),
        (ExecRequest("a", env={"A\n": ""}), "invalid environment key `A\n`"),
        (ExecRequest("a", env={"Ä": ""}), "invalid environment key `Ä`"),
        (ExecRequest("a\0"), "exec command must not contain NUL"),
        (ExecRequest("a", ["b", "c\0"]), "exec argument 1 must not contain NUL"),
        (ExecRequest("a", env={"K": "\0"}), "environment variable `K` must not contain NUL"),
        (ExecRequest("a", cwd="\0"), "exec cwd must not contain NUL"),
        (ExecRequest("a", timeout=0), "exec timeout must be more than 0"),
        (ExecRequest("a", stdin="", stdin_base64=""), "exec has both stdin and stdin_base64; give one"),
        (ExecRequest("a", user="a b"), "user 'a b' must be a user name"),
        (ExecRequest("a", ["\ud800"]), "exec argument 0 has no bytes in UTF-8"),
        (
            ExecRequest("a", ["x" * 131_072]),
            "exec argument 0 has 131072 bytes; the kernel takes fewer than 131072 in one (MAX_ARG_STRLEN, 128 KiB)",
        ),
        (ExecRequest("a", ["é" * 65_536]), "exec argument 0 has 131072 bytes"),
        (ExecRequest("x" * 131_072), "exec command has 131072 bytes"),
        (ExecRequest("a", env={"KEY": "x" * 131_068}), "environment variable `KEY` has 131072 bytes"),
    ],
)
def test_a_request_that_breaks_a_rule(request_: ExecRequest, detail: str) -> None:
    assert refused(rules.validate_exec, request_).startswith(detail)


@pytest.mark.parametrize(
    "request_",
    [
        ExecRequest("a", ["x" * 131_071, "é" * 65_535, ""]),
        ExecRequest("a", env={"KEY": "x" * 131_067, "_": ""}),
        ExecRequest("a", ["caf\udce9"]),
        ExecRequest("a", timeout=1e-9, cwd="", stdin="\0", user="root", output_limit=0),
    ],
)
def test_a_request_within_the_rules(request_: ExecRequest) -> None:
    rules.validate_exec(request_)


def test_the_kernel_agrees_on_the_longest_argument() -> None:
    longest = "x" * (rules.MAX_ARG_STRLEN - 1)
    assert subprocess.run(["/bin/true", longest], check=False).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", f"{longest}x"], check=False)


def test_stdin_bytes() -> None:
    assert rules.stdin_bytes(ExecRequest("a")) is None
    assert rules.stdin_bytes(ExecRequest("a", stdin="")) == b""
    assert rules.stdin_bytes(ExecRequest("a", stdin="é")) == b"\xc3\xa9"
    assert rules.stdin_bytes(ExecRequest("a", stdin_base64="/wA=")) == b"\xff\0"
    for malformed in ("/wA", "/w A=", "é", "!"):
        assert refused(rules.stdin_bytes, ExecRequest("a", stdin_base64=malformed)).startswith(
            "exec stdin_base64 is not base64"
        )
    assert refused(rules.stdin_bytes, ExecRequest("a", stdin="\ud800")).startswith("exec stdin has no bytes in UTF-8")
