import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.contender import Finished, RefusedError, Run, WrongResultError, led_in, run
from bench.hostview import HostView, host_view
from bench.peers.bare import Bare
from bench.peers.bubblewrap import Bubblewrap
from bench.peers.firejail import Firejail
from bench.peers.oci import bundle_config
from bench.runtime import Runtime, first_line

VIEW = HostView(binds=(Path("/usr"), Path("/etc")), links=((Path("/bin"), "usr/bin"),))


def test_an_exit_code_other_than_the_expected_one_is_never_measured() -> None:
    assert run(["/bin/true"]).checked().code == 0
    assert run(["/bin/false"]).checked(1).code == 1
    with pytest.raises(WrongResultError, match=r"exit code 3 instead of 0: broken"):
        run(["/bin/sh", "-c", "echo first >&2; echo broken >&2; exit 3"]).checked()


def test_a_led_in_run_checks_both_and_returns_the_second() -> None:
    codes = iter([(1.0, 0), (2.0, 0), (3.0, 1), (4.0, 0)])

    def go(_command: Sequence[str]) -> Finished:
        return Finished(*next(codes))

    assert led_in(go, ["x"]).seconds == 2.0
    with pytest.raises(WrongResultError):
        led_in(go, ["x"])


def test_the_floor_runs_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert Bare().once(tmp_path)(["ls"]).checked().stdout == b"here\n"
    with Bare().live(tmp_path) as go:
        assert go(["ls"]).checked().stdout == b"here\n"
    Bare().probe()


def test_a_runtime_that_hides_the_exit_code_is_refused() -> None:
    class Hiding(Runtime):
        name = "hiding"
        how = ""

        def version(self) -> str:
            return "1"

        def once(self, workspace: Path | None = None) -> Run:
            return lambda _command: Finished(0.0, 0)

    with pytest.raises(RefusedError, match="exit code 0 instead of 1"):
        Hiding().probe()


def test_a_program_that_is_not_there_has_no_version() -> None:
    assert first_line(["/nonexistent/program", "--version"]) is None
    assert first_line(["/bin/echo", "program 1.2"]) == "program 1.2"


def test_the_host_view_keeps_links_as_links(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    view = host_view(tmp_path)
    assert view == HostView(binds=(tmp_path / "usr",), links=((tmp_path / "bin", "usr/bin"),))


def test_bubblewrap_is_set_up_as_a_sandbox() -> None:
    argv = Bubblewrap().prefix(Path("/w"))
    assert {"--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--proc", "--dev"} <= set(argv)
    assert argv[argv.index("--tmpfs") + 1] == "/tmp"
    assert argv[argv.index("--bind") + 1 :][:2] == ["/w", "/workspace"]
    assert "--share-net" not in argv
    assert "--bind" not in Bubblewrap().prefix(None)


def test_firejail_can_write_to_the_workspace_alone() -> None:
    argv = Firejail().prefix(Path("/w"))
    assert {"--net=none", "--read-only=/", "--read-write=/w"} <= set(argv)


def test_a_bundle_for_root_has_no_user_namespace_and_nothing_writable_of_the_host() -> None:
    config = bundle_config(["/bin/true"], VIEW, Path("/w"), 0, 0)
    assert [entry["type"] for entry in config["linux"]["namespaces"]] == ["pid", "network", "ipc", "uts", "mount"]
    writable = [m["source"] for m in config["mounts"] if m["type"] == "none" and "ro" not in m["options"]]
    assert writable == ["/w"]
    assert config["process"]["args"] == ["/bin/true"]
    assert config["process"]["noNewPrivileges"] is True


def test_a_bundle_for_a_plain_user_maps_that_user() -> None:
    config = bundle_config(["/bin/true"], VIEW, None, 1001, 1002)
    assert {"type": "user"} in config["linux"]["namespaces"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1001, "size": 1}]
    assert config["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 1002, "size": 1}]
    assert config["process"]["cwd"] == "/"


def test_nothing_is_open_that_was_not_before() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    run(["/bin/true"])
    assert sorted(os.listdir("/proc/self/fd")) == before
