# ruff: noqa: ASYNC240 - small files of the host, read in between
"""The audit log: what is written and what is folded, that nothing stops it, and that a reader misses nothing."""

import asyncio
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from alcove.contract import SandboxIoError
from alcove.egress import audit
from alcove.egress.audit import AuditLog, Record, follow, printable, read

# One directory for all examples of a test: each begins by deleting the log
EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "egress.log"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def before(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[AuditLog]:
    log = AuditLog(path, **options)
    try:
        yield log
    finally:
        log.close()


def allowed(name: str, **fields: Any) -> Record:
    return replace(Record(session="s1", kind="connect", name=name, allowed=True), **fields)


def denied(name: str, **fields: Any) -> Record:
    return replace(Record(session="s1", kind="connect", name=name, allowed=False, reason="no rule"), **fields)


def told(path: Path) -> list[tuple[str, int]]:
    return [(record.name, record.count) for record in read(path)]


def names(path: Path) -> list[str]:
    return [record.name for record in read(path)]


# What is written


def test_a_line_has_every_field(path: Path) -> None:
    with opened(path) as log:
        log.add(
            allowed("api.example.org", address="192.0.2.7", port=443, reason="api.example.org", sent=517, received=9)
        )
    line = json.loads(path.read_text())
    assert datetime.fromisoformat(line.pop("time")) - datetime.now(UTC) < timedelta(seconds=60)
    assert line == {
        "session": "s1",
        "kind": "connect",
        "name": "api.example.org",
        "address": "192.0.2.7",
        "port": 443,
        "allowed": True,
        "reason": "api.example.org",
        "sent": 517,
        "received": 9,
        "count": 1,
        "lost": 0,
    }


def test_what_was_written_is_read(path: Path) -> None:
    records = [
        allowed("a.example", port=443, sent=1),
        denied("b.example", kind="dns", port=None),
        Record(session="s2", kind="policy", allowed=True, reason="3 entries"),
    ]
    with opened(path) as log:
        for record in records:
            log.add(record)
    assert list(read(path)) == records


def test_a_time_is_utc_with_milliseconds() -> None:
    east = timezone(timedelta(hours=2))
    assert audit.timestamp(datetime(2025, 3, 4, 1, 2, 3, 987_654, tzinfo=east)) == "2025-03-03T23:02:03.987Z"
    assert audit.timestamp(datetime(2025, 3, 4, tzinfo=UTC)) == "2025-03-04T00:00:00.000Z"


def test_every_line_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    write = os.write

    def recorded(fd: int, data: bytes) -> int:
        writes.append(data)
        return write(fd, data)

    with opened(path) as log:
        monkeypatch.setattr(os, "write", recorded)
        log.add(allowed("a.example"))
        log.add(denied("b" * 10_000, reason="\n" * 10_000))
    assert len(writes) == 2
    assert all(data.count(b"\n") == 1 and data.endswith(b"\n") and len(data) < 4096 for data in writes)


def test_the_file_is_ours_alone(path: Path) -> None:
    path.touch(0o644)
    mask = os.umask(0)
    try:
        with opened(path, limit_bytes=1) as log:
            log.add(allowed("a.example"))
            log.add(allowed("b.example"))
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, before(path))] == [0o600, 0o600]


def test_a_log_continues_where_it_was(path: Path) -> None:
    for name in ("a.example", "b.example"):
        with opened(path) as log:
            log.add(allowed(name))
    assert names(path) == ["a.example", "b.example"]


def test_a_path_relative_to_a_directory(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        log = AuditLog("egress.log", dir_fd=directory, limit_bytes=1)
        log.add(allowed("a.example"))
        log.add(allowed("b.example"))
        log.close()
    finally:
        os.close(directory)
    assert sorted(os.listdir(tmp_path)) == ["egress.log", "egress.log.1"]
    assert names(tmp_path / "egress.log") == ["a.example", "b.example"]


@pytest.mark.security
@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo", "nowhere"])
def test_what_is_no_file_is_refused(tmp_path: Path, path: Path, kind: str) -> None:
    other = tmp_path / "other"
    if kind == "symlink":
        other.write_text("theirs\n")
    match kind:
        case "symlink" | "dangling":
            path.symlink_to(other)
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path /= "below"
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(
        SandboxIoError, match=r"cannot open the audit log .*/egress\.log.*: .+; it must be a file of ours"
    ):
        AuditLog(path)
    assert os.listdir("/proc/self/fd") == descriptors
    assert not other.exists() or other.read_text() == "theirs\n"


# Texts that a guest chose


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api.example.org", "api.example.org"),
        ("a\nb\0\x7f\x1b[2J", r"a\x0ab\x00\x7f\x1b[2J"),
        ("\\x0a", r"\\x0a"),
        ("b\u00fccher\u202e\U0001f600\udc80", r"b\xfccher\u202e\U0001f600\udc80"),
        ("a" * 256, "a" * 256),
        ("a" * 257, "a" * 253 + "..."),
        ("\n" * 65, "\\x0a" * 63 + "\\..."),
    ],
)
def test_a_text_is_printable_and_bounded(text: str, said: str) -> None:
    assert printable(text) == said


@pytest.mark.security
@given(st.tuples(*[st.text(st.characters(codec=None), max_size=2000)] * 4))
@EXAMPLES
def test_no_text_of_a_guest_breaks_the_line(path: Path, texts: tuple[str, str, str, str]) -> None:
    path.unlink(missing_ok=True)
    session, name, address, reason = texts
    with opened(path) as log:
        log.add(denied(name, session=session, address=address, reason=reason))
        log.add(allowed("after.example"))
        assert log.lost == 0
    data = path.read_bytes()
    assert data.count(b"\n") == 2
    assert set(data) <= {0x0A, *range(0x20, 0x7F)}
    assert max(map(len, data.split(b"\n"))) < 4096
    found, after = read(path)
    assert (found.name, found.reason) == (printable(name), printable(reason, 512))
    assert (found.session, found.address) == (printable(session), printable(address))
    assert after.name == "after.example"


# Folding


def test_equal_denials_are_one_line_a_second(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        log.add(denied("a.example", port=443))
        assert told(path) == [("a.example", 1)]
        for _ in range(5):
            log.add(denied("a.example", port=443, address="198.18.9.9"))
        clock.at += 0.999
        log.settle()
        assert told(path) == [("a.example", 1)]
        clock.at += 0.001
        log.settle()
        assert told(path) == [("a.example", 1), ("a.example", 5)]
        assert list(read(path))[-1].address == "198.18.9.9"
        log.add(denied("a.example", port=443))
        assert len(told(path)) == 2
        clock.at += 1
        log.settle()
        assert told(path)[2:] == [("a.example", 1)]
        clock.at += 1
        log.settle()
        log.add(denied("a.example", port=443))
        assert told(path)[3:] == [("a.example", 1)]


def test_what_differs_is_not_folded(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        log.add(denied("a.example", port=443))
        log.add(denied("b.example", port=443))
        log.add(denied("a.example", port=80))
        log.add(denied("a.example", port=443, reason="another"))
        log.add(denied("a.example", port=443, session="s2"))
        log.add(denied("a.example", port=443, kind="dns"))
        assert len(told(path)) == 6


def test_what_is_allowed_is_never_folded(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        for _ in range(10):
            log.add(allowed("a.example", port=443))
        assert told(path) == [("a.example", 1)] * 10


def test_another_record_brings_what_is_due(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        for _ in range(3):
            log.add(denied("a.example"))
        clock.at += 1
        log.add(allowed("b.example"))
        assert told(path) == [("a.example", 1), ("a.example", 2), ("b.example", 1)]


def test_closing_writes_what_was_folded(path: Path, clock: Clock) -> None:
    log = AuditLog(path, now=clock)
    for _ in range(3):
        log.add(denied("a.example"))
    log.close()
    log.close()
    log.settle()
    assert told(path) == [("a.example", 1), ("a.example", 2)]


def test_after_closing_nothing_is_written_and_it_is_counted(path: Path) -> None:
    log = AuditLog(path)
    log.close()
    log.add(allowed("a.example"))
    log.add(denied("a.example"))
    log.add(denied("a.example"))
    assert (log.lost, told(path)) == (3, [])


@pytest.mark.security
def test_a_flood_of_different_denials_is_few_lines_and_all_are_counted(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        for number in range(10_000):
            log.add(denied(f"{number}.example", port=443, address="198.18.9.9", reason=f"no rule {number}"))
        log.add(denied("0.example", port=443, reason="no rule 0"))
        clock.at += 1
        log.settle()
        assert len(told(path)) < 70
        assert sum(count for _, count in told(path)) == 10_001
        assert ("0.example", 1) in told(path)[-2:]
        assert {(record.port, record.address) for record in read(path) if not record.name} == {(None, "")}
        clock.at += 1
        log.settle()
        log.add(denied("later.example"))
        assert told(path)[-1] == ("later.example", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.25, 0.5, 1.5])), max_size=60))
@EXAMPLES
def test_every_denial_is_counted_once_and_lines_are_a_second_apart(path: Path, events: list[tuple[str, float]]) -> None:
    path.unlink(missing_ok=True)
    clock = Clock()
    written: dict[str, list[float]] = {}
    with opened(path, now=clock) as log:
        for name, pause in events:
            clock.at += pause
            lines = len(names(path))
            log.add(denied(name))
            for line in names(path)[lines:]:
                written.setdefault(line, []).append(clock.at)
    for name in "abc":
        assert sum(count for found, count in told(path) if found == name) == [found for found, _ in events].count(name)
        times = written.get(name, [])
        assert all(later - earlier >= 1 for earlier, later in pairwise(times))


# Rotation, and files that cannot be written


def test_a_log_keeps_to_its_limit_with_one_predecessor(tmp_path: Path, path: Path) -> None:
    with opened(path, limit_bytes=4096) as log:
        for number in range(100):
            log.add(allowed(f"{number}.example"))
            assert path.stat().st_size <= 4096
        assert log.lost == 0
    assert sorted(os.listdir(tmp_path)) == ["egress.log", "egress.log.1"]
    assert 2048 < before(path).stat().st_size <= 4096
    kept = names(path)
    assert kept == [f"{number}.example" for number in range(100 - len(kept), 100)]
    assert 15 < len(kept) < 50


def test_a_log_that_is_full_already_is_rotated_first(path: Path) -> None:
    path.write_bytes(b"x" * 4096)
    with opened(path, limit_bytes=4096) as log:
        log.add(allowed("a.example"))
    assert (before(path).stat().st_size, names(path)) == (4096, ["a.example"])
    assert path.read_bytes().startswith(b"{")


def test_a_deleted_log_is_made_again(path: Path) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
        path.unlink()
        log.add(allowed("b.example"))
        assert names(path) == ["b.example"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a full disk: a write is cut short there, and the next one refused (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_nothing_and_the_next_line_says_what_is_lost(path: Path) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
        with files_up_to(path.stat().st_size + 20):
            for _ in range(3):
                log.add(allowed("b.example"))
        assert log.lost == 3
        assert not path.read_bytes().endswith(b"\n")
        log.add(allowed("c.example"))
        log.add(allowed("d.example"))
        assert log.lost == 3
    assert [(record.name, record.lost) for record in read(path)] == [
        ("a.example", 0),
        ("c.example", 3),
        ("d.example", 0),
    ]


def test_folded_denials_that_are_lost_are_all_counted(path: Path, clock: Clock) -> None:
    with opened(path, now=clock) as log:
        with files_up_to(0):
            for _ in range(5):
                log.add(denied("a.example"))
            clock.at += 1
            log.settle()
        assert log.lost == 5
        log.add(allowed("b.example"))
    assert [(record.name, record.lost) for record in read(path)] == [("b.example", 5)]


def test_a_log_that_cannot_rotate_does_not_grow(path: Path) -> None:
    before(path).mkdir()
    with opened(path, limit_bytes=1) as log:
        log.add(allowed("a.example"))
        log.add(allowed("b.example"))
        assert (log.lost, len(path.read_bytes().splitlines())) == (1, 1)
        before(path).rmdir()
        log.add(allowed("c.example"))
    assert [(record.name, record.lost) for record in read(path)] == [("a.example", 0), ("c.example", 1)]


@pytest.mark.security
def test_a_symbolic_link_put_there_later_is_not_written_through(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs\n")
    with opened(path) as log:
        log.add(allowed("a.example"))
        path.unlink()
        path.symlink_to(other)
        log.add(allowed("b.example"))
        assert log.lost == 1
        path.unlink()
        log.add(allowed("c.example"))
    assert other.read_text() == "theirs\n"
    assert [(record.name, record.lost) for record in read(path)] == [("c.example", 1)]


# Reading


def test_where_no_log_is_there_are_no_records(path: Path) -> None:
    assert list(read(path)) == []
    assert not path.exists()


def test_a_torn_last_line_is_passed_over_and_the_next_writer_starts_a_new_one(path: Path) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
        log.add(allowed("b.example"))
    path.write_bytes(path.read_bytes()[:-20])
    assert names(path) == ["a.example"]
    with opened(path) as log:
        log.add(allowed("c.example"))
        assert names(path) == ["a.example", "c.example"]


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"time": 7}', b'{"time": "\xff"}', b"\0" * 4096, b"{" * 99]
)
def test_lines_that_are_no_records_are_passed_over(path: Path, junk: bytes) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
    path.write_bytes(junk + b"\n" + path.read_bytes() + junk + b"\n" + path.read_bytes())
    assert names(path) == ["a.example", "a.example"]


def test_a_log_that_cannot_be_read_is_an_error_of_ours(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(SandboxIoError, match=r"cannot read the audit log .*/egress\.log: "):
        list(read(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(SandboxIoError, match="Is a directory"):
        list(read(path))


def test_since_leaves_out_what_was_before(path: Path) -> None:
    at = datetime(2025, 3, 4, 12, tzinfo=UTC)
    with opened(path, limit_bytes=600) as log:
        for minute in range(6):
            log.add(allowed(str(minute), time=audit.timestamp(at + timedelta(minutes=minute))))
    everything = names(path)
    assert everything[-3:] == ["3", "4", "5"]
    since = (at + timedelta(minutes=4)).astimezone(timezone(timedelta(hours=-5)))
    assert [record.name for record in read(path, since)] == ["4", "5"]
    assert [record.name for record in read(path, at + timedelta(hours=1))] == []


def test_a_rotation_between_the_two_opens_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    log.add(allowed("a.example"))
    open_file = os.open

    def rotated_after(place: str, *arguments: Any, **named: Any) -> int:
        fd = open_file(place, *arguments, **named)
        if place == str(path):
            monkeypatch.setattr(os, "open", open_file)
            path.rename(before(path))
        return fd

    monkeypatch.setattr(os, "open", rotated_after)
    assert names(path) == ["a.example"]
    log.close()


def test_a_reader_that_stops_early_leaves_no_descriptor(path: Path) -> None:
    with opened(path, limit_bytes=1) as log:
        log.add(allowed("a.example"))
        log.add(allowed("b.example"))
    descriptors = os.listdir("/proc/self/fd")
    reader = read(path)
    assert next(reader).name == "a.example"
    assert os.listdir("/proc/self/fd") != descriptors
    reader.close()
    assert os.listdir("/proc/self/fd") == descriptors


# Following


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_POLL_S", 0.001)


async def test_a_follower_sees_what_is_there_and_what_comes(path: Path, polls: None) -> None:
    with opened(path) as log:
        log.add(allowed("0"))
        async with asyncio.timeout(20), aclosing(follow(path)) as records:
            for number in range(20):
                assert (await anext(records)).name == str(number)
                log.add(allowed(str(number + 1)))


async def test_a_follower_waits_for_a_log_that_is_not_there_yet(path: Path, polls: None) -> None:
    async with asyncio.timeout(20), aclosing(follow(path)) as records:
        first = asyncio.ensure_future(anext(records))
        await asyncio.sleep(0)
        assert not first.done()
        with opened(path) as log:
            log.add(allowed("a.example"))
            assert (await first).name == "a.example"


async def test_a_follower_sees_each_record_once_over_rotations(path: Path, polls: None) -> None:
    with opened(path, limit_bytes=1) as log:
        log.add(allowed("0"))
        async with asyncio.timeout(20), aclosing(follow(path)) as records:
            assert (await anext(records)).name == "0"
            # every line is a file: after one rotation the reader's file is the predecessor, after two it is gone
            for count in (1, 2, 1, 2, 2):
                last = int(names(path)[-1])
                for number in range(last + 1, last + 1 + count):
                    log.add(allowed(str(number)))
                for number in range(last + 1, last + 1 + count):
                    assert (await anext(records)).name == str(number)


async def test_a_follower_reads_nothing_twice_while_the_new_file_is_not_there(path: Path, polls: None) -> None:
    log = AuditLog(path)
    log.add(allowed("a.example"))
    async with asyncio.timeout(20), aclosing(follow(path)) as records:
        assert (await anext(records)).name == "a.example"
        path.rename(before(path))
        later = asyncio.ensure_future(anext(records))
        log.add(allowed("b.example"))
        assert (await later).name == "b.example"
        log.close()
        later = asyncio.ensure_future(anext(records))
        await asyncio.sleep(0)
        with opened(path) as log:
            log.add(allowed("c.example"))
            assert (await later).name == "c.example"


async def test_a_follower_sees_a_line_when_it_is_whole(path: Path, polls: None) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
        log.add(allowed("b.example"))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    async with asyncio.timeout(20), aclosing(follow(path)) as records:
        assert (await anext(records)).name == "a.example"
        rest = asyncio.ensure_future(anext(records))
        await asyncio.sleep(0)
        with path.open("ab") as file:
            file.write(data[-20:])
        assert (await rest).name == "b.example"


async def test_a_follower_that_ends_leaves_no_descriptor(path: Path, polls: None) -> None:
    with opened(path) as log:
        log.add(allowed("a.example"))
        descriptors = os.listdir("/proc/self/fd")
        async with asyncio.timeout(20), aclosing(follow(path)) as records:
            await anext(records)
            assert os.listdir("/proc/self/fd") != descriptors
        assert os.listdir("/proc/self/fd") == descriptors
