import os
import socket
from pathlib import Path

import pytest

from bench.contender import WrongResultError
from bench.host import file_system, parse_assignments, processor
from bench.processes import descendants, kernel_memory, parents, parse_fields, parse_parent
from bench.pss import OwnEyes, RootsEyes, serve

SMAPS = """55d0c7a5c000-7ffc3f1fe000 ---p 00000000 00:00 0                          [rollup]
Rss:                1520 kB
Pss:                 133 kB
Pss_Dirty:            96 kB
"""

MOUNTS = """21 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:20 / /tmp rw - tmpfs tmpfs rw
23 22 0:21 / /tmp/deep rw shared:2 master:3 - xfs /dev/x rw
24 21 0:22 / /tmpfoo rw - btrfs /dev/y rw
"""


def test_fields_are_bytes_and_other_lines_are_left_alone() -> None:
    fields = parse_fields(SMAPS)
    assert fields == {"Rss": 1520 * 1024, "Pss": 133 * 1024, "Pss_Dirty": 96 * 1024}
    assert parse_fields("HugePages_Total:       0\nSlab: 12 kB\n") == {"Slab": 12 * 1024}


def test_a_command_name_with_parentheses_does_not_shift_the_parent() -> None:
    assert parse_parent("12 (a) b (c)) S 7 12 12 0 -1") == 7


def test_descendants_are_found_at_any_depth_and_nobody_elses() -> None:
    tree = {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 6: 5}
    assert descendants([2], tree) == {2, 3, 4}
    assert descendants([3, 6], tree) == {3, 4, 6}
    assert descendants([9], tree) == {9}


def test_our_own_parent_is_seen() -> None:
    assert parents()[os.getpid()] == os.getppid()
    assert kernel_memory() > 0


def test_memory_is_read_here_and_through_another_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serve(ours)
        far = RootsEyes(theirs)
        assert far.total([os.getpid()]) > 0
        assert far.total([]) == 0
        with pytest.raises(WrongResultError, match="process 999999999 is gone"):
            far.total([999999999])
        with pytest.raises(WrongResultError, match="process 999999999 is gone"):
            OwnEyes().total([999999999])


def test_a_reader_that_has_ended_is_an_error_and_not_a_zero() -> None:
    ours, theirs = socket.socketpair()
    ours.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(WrongResultError, match="has ended"):
        RootsEyes(theirs).total([1])


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/tmp", "ext4"), ("/tmp/a", "tmpfs"), ("/tmp/deep/b", "xfs"), ("/tmpfoo", "btrfs"), ("/tmpfo", "ext4")],
)
def test_the_file_system_is_the_innermost_mount(path: str, kind: str) -> None:
    assert file_system(MOUNTS, Path(path)) == kind


def test_host_files_are_parsed() -> None:
    release = parse_assignments('PRETTY_NAME="A Linux 1 (name)"\nID=a\n\n# note\n')
    assert release == {"PRETTY_NAME": "A Linux 1 (name)", "ID": "a"}
    assert processor("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"
    assert processor("") == "unknown"
