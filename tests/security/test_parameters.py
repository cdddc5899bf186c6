"""AP: what a caller can pass, and what the host does for a session with names that a guest chose."""

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from alcove.contract import (
    Duration,
    ExecError,
    ExecRequest,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    JsonError,
    Limited,
    ResourceLimits,
    SandboxError,
    SandboxIoError,
    SandboxSpec,
    SessionNotFound,
    from_json,
)
from alcove.local import LocalSandbox
from tests.local import outside
from tests.security.cells import fingerprint
from tests.security.conftest import MakeCell
from tests.security.corpus import compile_one

pytestmark = [pytest.mark.security, pytest.mark.user]

AS_ROOT = os.geteuid() == 0
IDS = [
    "../x",
    "x/y",
    "x\0y",
    "",
    " ",
    ".",
    "..",
    "-rf",
    ".hidden",
    "é",
    "\u202ex",
    "a" * 129,
    "a" * 10_000,
    "a\n",
    "a b",
    "%2e",
]


@pytest.fixture
def configuration() -> dict[str, Any]:
    return {"allow_root_owned": True}


def closed(**fields: Any) -> SandboxSpec:
    return SandboxSpec(network_policy=Limited(allowed_hosts=[]), **fields)


class TestAp05:
    @pytest.mark.parametrize("session_id", IDS, ids=range(len(IDS)))
    async def test_ap05_ids_name_no_path(self, backend: LocalSandbox, store: Path, session_id: str) -> None:
        before = {path.name for path in store.parent.iterdir()}
        with pytest.raises(InvalidRequest):
            await backend.provision(closed(session_id=session_id))
        for call in (
            backend.exec(session_id, ExecRequest("true")),
            backend.terminate(session_id),
            backend.attach_filesystem(session_id, FilesystemMount("", "/mnt/x", FilesystemAccess.READ_ONLY)),
        ):
            with pytest.raises((InvalidRequest, SessionNotFound)):
                await call
        assert list((store / "sessions").iterdir()) == []
        assert {path.name for path in store.parent.iterdir()} == before

    async def test_ap05_a_good_id_is_no_directory_either(self, backend: LocalSandbox, store: Path) -> None:
        await backend.provision(closed(session_id="good-id"))
        (directory,) = (store / "sessions").iterdir()
        assert directory.name != "good-id"

    @pytest.mark.parametrize(
        "limits",
        [
            {"memory_mb": 0},
            {"cpu_count": 0},
            {"memory_mb": -1},
            {"memory_mb": 2**63},
            {"cpu_count": 2**32},
            {"memory_mb": 1.5},
            {"wall_time": -1},
            {"wall_time": float("nan")},
            {"wall_time": 1e308},
            {"memory_mb": "1G"},
        ],
        ids=str,
    )
    async def test_ap05_limits_of_no_sense_are_refused(self, backend: LocalSandbox, limits: dict[str, Any]) -> None:
        with pytest.raises((InvalidRequest, JsonError)):
            await backend.provision(closed(limits=ResourceLimits(**limits)))

    @pytest.mark.parametrize("field", ["pids", "open_files", "disk_mb"])
    @pytest.mark.parametrize("value", [-1, 2**63, 2**80])
    async def test_ap05_extensions_of_no_sense_are_refused(self, backend: LocalSandbox, field: str, value: int) -> None:
        with pytest.raises((SandboxError, TypeError)):
            await backend.provision(closed(**{field: value}))

    @pytest.mark.parametrize("pids", [2**22, 2**31, 2**32 - 1])
    async def test_ap05_a_large_limit_is_a_limit_or_an_error(self, backend: LocalSandbox, pids: int) -> None:
        """Never a wrapped-around one, and never none."""
        try:
            session = await backend.provision(closed(pids=pids))
        except SandboxError:
            return
        said = await backend.exec(
            session.id, ExecRequest("sh", ["-c", "ulimit -u; true & wait; echo forked"], timeout=20)
        )
        assert said.stdout.endswith("forked\n")

    @pytest.mark.parametrize("key", ["", "A=B", "A\0", "1A", "A B", "A-B", "é"])
    async def test_ap05_environment_names_are_names(self, make_cell: MakeCell, key: str) -> None:
        cell = await make_cell()
        with pytest.raises(InvalidRequest):
            await cell.run("true", env={key: "x"})
        with pytest.raises(InvalidRequest):
            await cell.run("true", env={"A": "x\0y"})

    async def test_ap05_the_callers_environment_reaches_no_helper(
        self, make_cell: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A preloaded library leaves a mark on the host wherever it is loaded."""
        mark = tmp_path / "loaded"
        library = tmp_path / "preload.so"
        source = tmp_path / "preload.c"
        source.write_text(
            "#include <fcntl.h>\n__attribute__((constructor)) static void load(void)"
            f'{{ (void)!open("{mark}", O_CREAT | O_WRONLY, 0600); }}\n'
        )
        compile_one(source, library, "-shared", "-fPIC")
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("PYTHONPATH", "/nonexistent")
        monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
        cell = await make_cell()
        said = await cell.run("env")
        (tmp_path / "shown").mkdir()
        await cell.backend.attach_filesystem(
            cell.id, FilesystemMount(str(tmp_path / "shown"), "/mnt/shown", FilesystemAccess.READ_ONLY)
        )
        assert "LD_PRELOAD" not in said.stdout
        assert "SECRET_OF_THE_CALLER" not in said.stdout
        assert not mark.exists()
        control = await asyncio.create_subprocess_exec("/bin/true")
        await control.wait()
        assert mark.exists()

    async def test_ap05_a_guests_preload_is_its_own(self, make_cell: MakeCell, tmp_path: Path) -> None:
        mark = tmp_path / "loaded"
        source = tmp_path / "preload.c"
        source.write_text(
            "#include <fcntl.h>\n__attribute__((constructor)) static void load(void)"
            f'{{ (void)!open("{mark}", O_CREAT | O_WRONLY, 0600); (void)!open("/workspace/loaded", O_CREAT, 0600); }}\n'
        )
        cell = await make_cell()
        compile_one(source, cell.directory / "workspace" / "preload.so", "-shared", "-fPIC")
        await cell.run("true", env={"LD_PRELOAD": "/workspace/preload.so", "LD_LIBRARY_PATH": "/workspace"})
        assert (cell.directory / "workspace" / "loaded").exists()
        assert not mark.exists()

    @pytest.mark.parametrize(
        "source", ["/", "/proc", "/sys", "/dev", "/proc/self/root", "/dev/null", "/dev/shm/../../proc"]
    )
    async def test_ap05_places_of_the_kernel_are_not_attached(self, make_cell: MakeCell, source: str) -> None:
        cell = await make_cell()
        before = outside.mounts(await cell.resident())
        with pytest.raises((InvalidRequest, SandboxIoError)):
            await cell.backend.attach_filesystem(cell.id, FilesystemMount(source, "/mnt/x", FilesystemAccess.READ_ONLY))
        assert outside.mounts(await cell.resident()) == before

    async def test_ap05_the_store_and_what_leads_to_it_are_not_attached(
        self, make_cell: MakeCell, store: Path, tmp_path: Path
    ) -> None:
        cell, other = await make_cell(), await make_cell()
        (tmp_path / "link").symlink_to(store)
        (tmp_path / "root").symlink_to("/")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            refused = [
                store,
                store / "sessions",
                other.directory,
                store.parent,
                tmp_path / "link",
                tmp_path / "root",
                tmp_path / "socket",
                tmp_path / "link" / "sessions",
                Path("/.."),
            ]
            for source in refused:
                with pytest.raises((InvalidRequest, SandboxIoError)):
                    await cell.backend.attach_filesystem(
                        cell.id, FilesystemMount(str(source), "/mnt/x", FilesystemAccess.READ_ONLY)
                    )
        assert "/mnt/x" not in outside.mounts(await cell.resident())

    @pytest.mark.parametrize(
        "target",
        [
            "/",
            "/proc",
            "/proc/1",
            "/sys",
            "/dev/shm",
            "/run",
            "relative",
            "/mnt/../etc",
            "/mnt/./../x",
            "",
            "//proc",
            "/./dev",
            "/mnt/\0",
            "/mnt/session/outputs",
            "/" + "x" * 300,
            "/mnt/" + "y/" * 2500,
        ],
        ids=range(16),
    )
    async def test_ap05_targets_stay_in_their_places(self, make_cell: MakeCell, canary: Path, target: str) -> None:
        cell = await make_cell()
        before = outside.mounts(await cell.resident())
        with pytest.raises((InvalidRequest, SandboxIoError)):
            await cell.backend.attach_filesystem(
                cell.id, FilesystemMount(str(canary), target, FilesystemAccess.READ_ONLY)
            )
        assert outside.mounts(await cell.resident()) == before

    @pytest.mark.parametrize("field", ["uid_map", "privileged", "rootfs_path", "network"])
    def test_ap05_unknown_fields_are_refused_when_strict(self, field: str) -> None:
        text = (
            '{"session_id":null,"labels":{},"network_policy":{"mode":"limited","allowed_hosts":[]},"mounts":[],'
            '"limits":{"wall_time":null,"cpu_count":null,"memory_mb":null,"idle_timeout":null}'
        )
        assert from_json(text + "}", SandboxSpec, strict=True) == closed()
        with pytest.raises(JsonError):
            from_json(f'{text},"{field}":1}}', SandboxSpec, strict=True)

    async def test_ap05_a_policy_that_cannot_be_kept_is_refused(self, backend: LocalSandbox) -> None:
        for hosts in (["*"], ["*.org"], ["**.example.org"], ["0.0.0.0/0"], ["127.0.0.1"], ["https://example.org/"]):
            with pytest.raises(InvalidRequest):
                await backend.provision(SandboxSpec(network_policy=Limited(allowed_hosts=hosts)))


class TestAp07:
    """Names that a guest chose, and work that the host does afterwards: nothing outside is read, written or removed."""

    PLANTED = (
        "for name in a b tmp workspace memory outputs mount-0; do ln -s $1 /workspace/$name; "
        "ln -s $1 /tmp/$name; ln -s $1 /mnt/session/outputs/$name; done; ln -s $1/data /workspace/file; "
        "ln -s / /workspace/root; "
        "mkdir -p /workspace/deep/er; ln -s $1 /workspace/deep/er/link; ln -s ../../../../../.. /workspace/up"
    )

    async def test_ap07_removal_follows_no_link(self, make_cell: MakeCell, canary: Path) -> None:
        cell = await make_cell()
        (canary / "sub" / "precious").write_text("kept")
        assert (await cell.sh(self.PLANTED, str(canary))).success
        assert (cell.directory / "workspace" / "a").is_symlink()
        before = fingerprint(canary)
        await cell.backend.terminate(cell.id)
        assert not cell.directory.exists()
        assert fingerprint(canary) == before

    async def test_ap07_removal_crosses_into_no_attachment(self, make_cell: MakeCell, canary: Path) -> None:
        (canary / "sub" / "precious").write_text("kept")
        mount = FilesystemMount(str(canary), "/workspace/attached", FilesystemAccess.READ_WRITE)
        cell = await make_cell()
        await cell.backend.attach_filesystem(cell.id, mount)
        assert (await cell.run("cat", "/workspace/attached/sub/precious")).stdout == "kept"
        before = fingerprint(canary)
        await cell.backend.terminate(cell.id)
        assert fingerprint(canary) == before

    async def test_ap07_a_renamed_top_is_not_removed_for_another(self, make_cell: MakeCell, canary: Path) -> None:
        """While its processes still run, a guest exchanges directories for links as fast as it can."""
        cell = await make_cell()
        (canary / "sub" / "precious").write_text("kept")
        before = fingerprint(canary)
        code = (
            "import os, ctypes\n"
            "os.makedirs('/workspace/x/y'); os.symlink(os.environ['CANARY'], '/workspace/l')\n"
            "print('stays', os.getpid(), flush=True)\n"
            "libc = ctypes.CDLL(None)\n"
            "while True: libc.renameat2(-100, b'/workspace/x', -100, b'/workspace/l', 2)\n"
        )
        await cell.stay_command(["python3", "-c", code], env={"CANARY": str(canary)})
        await cell.backend.terminate(cell.id)
        assert fingerprint(canary) == before
        assert not cell.directory.exists()

    @pytest.mark.parametrize("target", ["/workspace/link/in", "/workspace/link", "/tmp/link/in", "/workspace/inner/in"])
    async def test_ap08_no_mount_point_is_made_through_a_guests_link(
        self, make_cell: MakeCell, canary: Path, tmp_path: Path, target: str
    ) -> None:
        cell = await make_cell()
        (tmp_path / "source").mkdir()
        script = (
            "ln -s $1 /workspace/link; ln -s /etc /tmp/link; ln -s /tmp /workspace/inner; mkdir -p /workspace/plain"
        )
        await cell.sh(script, str(canary))
        pid = await cell.resident()
        before = outside.mounts(pid)
        source = FilesystemMount(str(tmp_path / "source"), target, FilesystemAccess.READ_ONLY)
        with pytest.raises(SandboxIoError):
            await cell.backend.attach_filesystem(cell.id, source)
        assert outside.mounts(pid) == before
        control = FilesystemMount(str(tmp_path / "source"), "/workspace/plain/in", FilesystemAccess.READ_ONLY)
        await cell.backend.attach_filesystem(cell.id, control)
        assert "/workspace/plain/in" in outside.mounts(pid)

    async def test_ap08_a_target_exchanged_while_we_look_stays_inside(
        self, make_cell: MakeCell, canary: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "source").mkdir()
        cell = await make_cell()
        code = (
            "import os, ctypes\n"
            "os.makedirs('/workspace/x'); os.symlink('/proc/self/root/etc', '/workspace/l')\n"
            "print('stays', os.getpid(), flush=True)\n"
            "libc = ctypes.CDLL(None)\n"
            "while True: libc.renameat2(-100, b'/workspace/x', -100, b'/workspace/l', 2)\n"
        )
        pid = (await cell.stay_command(["python3", "-c", code])).pid
        before = set(outside.mounts(pid))
        here = outside.read(os.getpid(), "mountinfo").count(str(tmp_path / "source"))
        for number in range(40):
            mount = FilesystemMount(str(tmp_path / "source"), f"/workspace/x/in{number}", FilesystemAccess.READ_ONLY)
            try:
                await cell.backend.attach_filesystem(cell.id, mount)
            except SandboxIoError:
                continue
        new = set(outside.mounts(pid)) - before
        assert all(place.startswith("/workspace/") for place in new), new
        assert outside.read(os.getpid(), "mountinfo").count(str(tmp_path / "source")) == here


class TestAp20:
    @pytest.mark.parametrize(
        "request_",
        [
            ExecRequest(""),
            ExecRequest(" "),
            ExecRequest("tr\0ue"),
            ExecRequest("true", ["a\0b"]),
            ExecRequest("true", ["x" * 131_072]),
            ExecRequest("true", ["x" * 3_000_000]),
            ExecRequest("true", ["x" * 100_000] * 40),
            ExecRequest("true", user="0:0"),
            ExecRequest("true", user="+1"),
            ExecRequest("true", user="99999999999"),
            ExecRequest("true", user="4294967295"),
            ExecRequest("true", user="70000"),
            ExecRequest("true", user="-1"),
            ExecRequest("true", user=""),
            ExecRequest("true", user="../root"),
            ExecRequest("true", user="no-such-user"),
            ExecRequest("true", cwd="/wor\0kspace"),
        ],
        ids=range(17),
    )
    async def test_ap20_requests_of_no_sense_are_refused(self, make_cell: MakeCell, request_: ExecRequest) -> None:
        cell = await make_cell()
        before = len(cell.members())
        with pytest.raises(InvalidRequest):
            await cell.backend.exec(cell.id, request_)
        assert (await cell.run("true")).success
        # a monitor has a moment to live after its answer
        await outside.until(lambda: len(cell.members()) <= before, "what a refused request started stays")

    @pytest.mark.parametrize(
        ("cwd", "said"),
        [
            ("missing", "does not exist"),
            ("file", "is not a directory"),
            ("loop", "levels"),
            ("../../nowhere", "not exist"),
        ],
    )
    async def test_ap20_a_working_directory_that_is_none(self, make_cell: MakeCell, cwd: str, said: str) -> None:
        cell = await make_cell()
        await cell.sh(": >/workspace/file; ln -s loop /workspace/loop")
        with pytest.raises(ExecError, match=said):
            await cell.run("true", cwd=cwd)

    async def test_ap20_a_working_directory_is_the_guests(self, make_cell: MakeCell, canary: Path) -> None:
        cell = await make_cell()
        await cell.sh("ln -s $1 /workspace/out; ln -s /etc /workspace/in", str(canary))
        with pytest.raises(ExecError):
            await cell.run("true", cwd="out")
        assert (await cell.run("pwd", cwd="in")).stdout in {"/etc\n", "/workspace/in\n"}

    async def test_ap20_an_empty_argument_is_one(self, make_cell: MakeCell) -> None:
        said = await (await make_cell()).run("printf", "[%s]", "", "a b", "*", "$HOME", "\udcff")
        assert said.stdout == "[][a b][*][$HOME][\ufffd]"

    async def test_ap20_a_mebibyte_of_arguments_works(self, make_cell: MakeCell) -> None:
        said = await (await make_cell()).run("sh", "-c", "echo $#", "sh", *["x" * 100_000] * 10)
        assert said.stdout == "10\n"

    if AS_ROOT:

        @pytest.mark.parametrize(("user", "uid"), [("1000", 1000), ("agent", 1000), ("65534", 65534), ("12345", 12345)])
        async def test_ap20_a_user_is_that_user(self, make_cell: MakeCell, user: str, uid: int) -> None:
            cell = await make_cell()
            stays = ["sh", "-c", "echo stays $$; exec sleep 100000"]
            base = int(outside.status((await cell.stay_command(stays)).pid)["Uid"].split()[0])
            status = outside.status((await cell.stay_command(stays, user=user)).pid)
            assert {int(number) for number in status["Uid"].split()} == {base + uid}
            assert {status[name] for name in ("CapEff", "CapPrm", "CapAmb", "CapInh")} == {"0" * 16}
            said = await cell.sh("echo no >/etc/hostname; kill -9 1; id -u; setpriv --reuid 0 id -u", user=user)
            assert said.stdout == f"{uid}\n"

    else:

        async def test_ap20_a_plain_users_session_has_no_other_user(self, make_cell: MakeCell) -> None:
            cell = await make_cell()
            with pytest.raises(InvalidRequest, match="range of uids"):
                await cell.run("true", user="1000")
            with pytest.raises(InvalidRequest, match="range of uids"):
                await make_cell(user="1000")

    async def test_ap20_a_secret_in_an_environment_is_in_no_argument_list(self, make_cell: MakeCell) -> None:
        """Not of ours: the host's ps shows command lines to everybody."""
        secret = secrets.token_hex(16)
        cell = await make_cell()
        await cell.stay_command(["sh", "-c", "echo stays $$; exec sleep 100000"], env={"SECRET": secret}, stdin=secret)
        lines = [outside.read(pid, "cmdline") for pid in outside.pids()]
        assert "alcove-warden" in "".join(lines)
        assert not any(secret in line for line in lines)

    async def test_ap20_stdin_is_data(self, make_cell: MakeCell) -> None:
        data = "\0\x1b]0;x\a\n" + "x" * 100_000
        said = await (await make_cell()).run("cat", stdin=data, timeout=Duration(20))
        assert said.stdout == data
