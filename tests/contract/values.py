"""Values of every type of the contract: fixed ones for the golden files, and strategies for the property tests."""

from typing import Any

from hypothesis import strategies as st

from alcove import (
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    Limited,
    NetworkPolicy,
    ResolvedMount,
    ResourceLimits,
    SandboxCapabilities,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    Unrestricted,
)

READ_ONLY, READ_WRITE = FilesystemAccess.READ_ONLY, FilesystemAccess.READ_WRITE

#: What each file of tests/golden holds: the type to read it as, and the value.
GOLDEN: dict[str, tuple[Any, object]] = {
    "session_id": (SandboxSessionId, SandboxSessionId("local-7f")),
    "duration": (Duration, Duration(90, 500_000_000)),
    "duration_largest": (Duration, Duration(2**64 - 1, 999_999_999)),
    "policy_unrestricted": (NetworkPolicy, Unrestricted()),
    "policy_limited": (NetworkPolicy, Limited(["api.github.com", "*.pypi.org"])),
    "policy_limited_to_nothing": (NetworkPolicy, Limited()),
    "access_read_only": (FilesystemAccess, READ_ONLY),
    "access_read_write": (FilesystemAccess, READ_WRITE),
    "mount": (FilesystemMount, FilesystemMount("/srv/data", "/data", READ_WRITE)),
    "mount_fresh": (FilesystemMount, FilesystemMount("", "/mnt/scratch", READ_ONLY)),
    "mount_extended": (FilesystemMount, FilesystemMount("/srv/data", "/data", READ_ONLY, copy_on_write=True)),
    "limits_absent": (ResourceLimits, ResourceLimits()),
    "limits": (ResourceLimits, ResourceLimits(wall_time=2.5, cpu_count=2, memory_mb=512, idle_timeout=600)),
    "spec_default": (SandboxSpec, SandboxSpec()),
    "spec": (
        SandboxSpec,
        SandboxSpec(
            "job-1",
            {"zone": "eu", "Team": "a", "ärger": "ja", "team": "b"},
            Limited(["example.com"]),
            [FilesystemMount("/srv/data", "/data"), FilesystemMount("", "/mnt/scratch", READ_WRITE)],
            ResourceLimits(wall_time=60, cpu_count=1, memory_mb=256, idle_timeout=0.25),
        ),
    ),
    "spec_extended": (
        SandboxSpec,
        SandboxSpec(
            mounts=[FilesystemMount("/srv/data", "/data", copy_on_write=True)],
            rootfs="snapshot:snap-1",
            pids=64,
            open_files=1024,
            disk_mb=2048,
            output_limit=2**40,
            user="builder",
            best_effort=True,
            set_id=True,
        ),
    ),
    "state_provisioned": (SandboxState, SandboxState.PROVISIONED),
    "state_running": (SandboxState, SandboxState.RUNNING),
    "state_suspended": (SandboxState, SandboxState.SUSPENDED),
    "state_terminated": (SandboxState, SandboxState.TERMINATED),
    "resolved_mount": (ResolvedMount, ResolvedMount("/mnt/memory", READ_ONLY, "/var/lib/alcove/s/1/memory")),
    "resolved_mount_remote": (ResolvedMount, ResolvedMount("/mnt/memory", READ_ONLY)),
    "session": (
        SandboxSession,
        SandboxSession(
            "job-1",
            "local",
            SandboxState.RUNNING,
            [ResolvedMount("/mnt/memory", READ_ONLY), ResolvedMount("/mnt/session/outputs", READ_WRITE, "/srv/out")],
            {"root": "/srv/1", "isolation": "userns,mountns", "network": "none", "limits": "wall_time"},
        ),
    ),
    "session_bare": (SandboxSession, SandboxSession("a", "fake", SandboxState.TERMINATED)),
    "session_extended": (
        SandboxSession,
        SandboxSession("a", "fake", SandboxState.SUSPENDED, labels={"b": "2", "a": "1"}),
    ),
    "exec_request_default": (ExecRequest, ExecRequest("true")),
    "exec_request": (
        ExecRequest,
        ExecRequest(
            "sh", ["-c", 'echo "$WORD"\n'], "src", {"WORD": "a=b", "LANG": "C"}, "ünd\t\u0001\U0001f600", 0.001
        ),
    ),
    "exec_request_extended": (
        ExecRequest,
        ExecRequest("id", user="1000", output_limit=0, stdin_base64="/w==", raw=True, debug=True),
    ),
    "exec_result_default": (ExecResult, ExecResult()),
    "exec_result": (ExecResult, ExecResult("out\n", "err \ufffd/\\\n", 3, timed_out=False)),
    "exec_result_timed_out": (ExecResult, ExecResult("before\n", "", -1, timed_out=True)),
    "exec_result_extended": (
        ExecResult,
        ExecResult(
            exit_code=137,
            signal=9,
            oom_killed=True,
            stdout_omitted=10_000_000_000,
            stderr_omitted=1,
            stdout_base64="/w==",
            stderr_base64="",
        ),
    ),
    "snapshot": (
        SandboxSnapshot,
        SandboxSnapshot("job-1", "local", "snap-1", {"parent": "", "durable": "true", "files": "7", "bytes": "4096"}),
    ),
    "snapshot_bare": (SandboxSnapshot, SandboxSnapshot("a", "fake", "b")),
    "capabilities_none": (SandboxCapabilities, SandboxCapabilities()),
    "capabilities_all": (
        SandboxCapabilities,
        SandboxCapabilities(
            local_process_sandbox=True, network_policy=True, snapshot=True, resume=True, suspend_on_idle=True
        ),
    ),
}

TYPES: list[Any] = list({kind: None for kind, _ in GOLDEN.values()})

text = st.text(max_size=12)
maps = st.dictionaries(text, text, max_size=4)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
ids = text.filter(lambda value: value.strip()).map(SandboxSessionId)
durations = st.builds(Duration, st.integers(0, 2**64 - 5), u32)
policies = st.one_of(st.just(Unrestricted()), st.builds(Limited, st.lists(text, max_size=3)))
accesses = st.sampled_from(FilesystemAccess)
mounts = st.builds(FilesystemMount, text, text, accesses, copy_on_write=st.booleans())
maybe_u32, maybe_u64, maybe_text = st.none() | u32, st.none() | u64, st.none() | text
limits = st.builds(ResourceLimits, st.none() | durations, maybe_u32, maybe_u32, st.none() | durations)
specs = st.builds(
    SandboxSpec,
    st.none() | ids,
    maps,
    policies,
    st.lists(mounts, max_size=3),
    limits,
    rootfs=st.just("host") | text,
    pids=maybe_u32,
    open_files=maybe_u32,
    disk_mb=maybe_u32,
    output_limit=maybe_u64,
    user=maybe_text,
    best_effort=st.booleans(),
    set_id=st.booleans(),
)
resolved_mounts = st.builds(ResolvedMount, text, accesses, maybe_text)
sessions = st.builds(
    SandboxSession, ids, text, st.sampled_from(SandboxState), st.lists(resolved_mounts, max_size=3), maps, maps
)
requests = st.builds(
    ExecRequest,
    text,
    st.lists(text, max_size=4),
    maybe_text,
    maps,
    maybe_text,
    st.none() | durations,
    user=maybe_text,
    output_limit=maybe_u64,
    stdin_base64=maybe_text,
    raw=st.booleans(),
    debug=st.booleans(),
)
results = st.builds(
    ExecResult,
    text,
    text,
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
    signal=st.none() | st.integers(1, 64),
    oom_killed=st.booleans(),
    stdout_omitted=u64,
    stderr_omitted=u64,
    stdout_base64=maybe_text,
    stderr_base64=maybe_text,
)

STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    SandboxSessionId: ids,
    Duration: durations,
    NetworkPolicy: policies,
    FilesystemAccess: accesses,
    FilesystemMount: mounts,
    ResourceLimits: limits,
    SandboxSpec: specs,
    SandboxState: st.sampled_from(SandboxState),
    ResolvedMount: resolved_mounts,
    SandboxSession: sessions,
    ExecRequest: requests,
    ExecResult: results,
    SandboxSnapshot: st.builds(SandboxSnapshot, ids, text, text, maps),
    SandboxCapabilities: st.builds(SandboxCapabilities, *[st.booleans()] * 5),
}

#: A contract type with a value of it.
typed_values = st.sampled_from(TYPES).flatmap(lambda kind: st.tuples(st.just(kind), STRATEGIES[kind]))

#: Parsed JSON of any shape, numbers out of every range included.
anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, -1]),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
        st.sampled_from(["read_only", "unrestricted", "limited", "running", "host", " "]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | st.sampled_from(["mode", "secs", "nanos", "target"]), inner, max_size=3)
    ),
    max_leaves=6,
)
