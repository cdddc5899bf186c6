"""The configuration files: where they lie, what may stand in them, and who reads them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alcove import InvalidRequest, LocalSandboxConfig
from alcove.egress.config import EgressConfig
from alcove.local import config_file
from tests.cli.cli import Cli

pytestmark = pytest.mark.user


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without configuration, on a machine without any."""
    for name in ("ALCOVE_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config_file, "MACHINE", str(tmp_path / "etc/config.toml"))
    return tmp_path / "home"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def refusal() -> str:
    with pytest.raises(InvalidRequest) as caught:
        LocalSandboxConfig.load()
    return caught.value.detail


def test_no_file_is_no_configuration(home: Path) -> None:
    assert LocalSandboxConfig.load() == LocalSandboxConfig()
    assert LocalSandboxConfig.load(default_pids=7) == LocalSandboxConfig(default_pids=7)


def test_all_that_can_be_said(home: Path) -> None:
    write(
        home / ".config/alcove/config.toml",
        """
        [egress]
        allow_addresses = ["10.1.0.0/16", "fd00::/8"]
        resolvers = ["127.0.0.1:5353"]
        hosts = {"git.test" = ["10.1.0.5"]}
        fake_range = "100.100.0.0/16"
        [egress.presets]
        forge = ["git.test:22", "*.git.test"]
        """,
    )
    config = LocalSandboxConfig.load()
    assert config.egress == EgressConfig(
        allow_addresses=("10.1.0.0/16", "fd00::/8"),
        resolvers=("127.0.0.1:5353",),
        hosts=(("git.test", ("10.1.0.5",)),),
        fake_range="100.100.0.0/16",
    )
    assert config.expanded(["web.test", "@forge", "web.test"]) == ("web.test", "git.test:22", "*.git.test")
    assert LocalSandboxConfig.load(egress=EgressConfig()).egress == EgressConfig()


def test_a_users_file_goes_over_the_machines(home: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "etc/config.toml",
        'egress.resolvers = ["192.0.2.1"]\negress.allow_addresses = ["10.0.0.0/8"]\n'
        'egress.presets = {one = ["machine.test"], two = ["machine.test"]}\n',
    )
    machine = LocalSandboxConfig.load()
    assert machine.egress.resolvers == ("192.0.2.1",)
    write(
        home / ".config/alcove/config.toml",
        'egress.allow_addresses = []\negress.presets = {two = ["user.test"], three = ["user.test"]}\n',
    )
    both = LocalSandboxConfig.load()
    assert (both.egress.resolvers, both.egress.allow_addresses) == (("192.0.2.1",), ())
    assert dict(both.presets) == {"one": ("machine.test",), "two": ("user.test",), "three": ("user.test",)}


def test_where_a_users_file_lies(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_file.own() == f"{home}/.config/alcove/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_file.own() == f"{home}/.config/alcove/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/xdg")
    assert config_file.own() == f"{tmp_path}/xdg/alcove/config.toml"
    monkeypatch.setenv("ALCOVE_CONFIG", f"{tmp_path}/mine.toml")
    assert config_file.own() == f"{tmp_path}/mine.toml"
    assert refusal() == f"cannot read the configuration {tmp_path}/mine.toml: No such file or directory"
    monkeypatch.setenv("ALCOVE_CONFIG", os.devnull)
    assert LocalSandboxConfig.load() == LocalSandboxConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[egres]", "there is no `egres` (did you mean `egress`?)"),
        ("[egress]\nresolver = []", "there is no `egress.resolver` (did you mean `egress.resolvers`?)"),
        ("[egress]\nx = 1", "there is no `egress.x`; there is `egress.allow_addresses`, `egress.resolvers`, "),
        ("egress = 1", "egress must be a table: write [egress]"),
        ("[egress]\nhosts = []", "egress.hosts must be a table: write [egress.hosts]"),
        ('[egress]\nallow_addresses = "10.0.0.0/8"', 'egress.allow_addresses must be a list of texts: write ["'),
        ("[egress]\nresolvers = [1]", "egress.resolvers must be a list of texts"),
        ('[egress]\nhosts = {"a.test" = "10.0.0.1"}', "egress.hosts.a.test must be a list of texts"),
        ("[egress]\nfake_range = 1", "egress.fake_range must be a text"),
        ('[egress]\nfake_range = "10.0.0.0/24"', "egress.fake_range 10.0.0.0/24 must have at least"),
        ('[egress]\nallow_addresses = ["10.0.0.1/8"]', "egress.allow_addresses: 10.0.0.1/8 has host bits set"),
        ('[egress]\nresolvers = ["dns.test"]', "nameserver 'dns.test' is no address"),
        ('[egress.presets]\na = "web.test"', "egress.presets.a must be a list of texts"),
        ('[egress.presets]\n"a b" = ["web.test"]', "egress.presets.a b: a name has letters, digits, `-` and `_` only"),
        ('[egress.presets]\na = ["@b"]', "egress.presets.a has `@b`: write the entries of that preset themselves"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(home: Path, text: str, message: str) -> None:
    path = write(home / ".config/alcove/config.toml", text)
    assert refusal().startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", [b"[egress", b"\xff", b"a = 1\na = 2"])
def test_what_is_no_toml(home: Path, text: bytes) -> None:
    path = write(home / ".config/alcove/config.toml", "")
    path.write_bytes(text)
    assert refusal().startswith(f"{path} is no TOML: ")


@pytest.mark.security
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write(home: Path, mode: int) -> None:
    path = write(home / ".config/alcove/config.toml", "")
    assert LocalSandboxConfig.load() == LocalSandboxConfig()
    path.chmod(mode)
    assert refusal() == f"the configuration {path} can be written by others: chmod go-w {path}"


@pytest.mark.security
def test_a_file_that_is_another_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sudo leaves HOME on some hosts."""
    path = write(home / ".config/alcove/config.toml", "")
    fields = list(path.stat())
    fields[stat.ST_UID] = 1001
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(fields))
    monkeypatch.setattr(os, "geteuid", lambda: 1002)
    assert refusal().startswith(
        f"the configuration {path} belongs to uid 1001, neither you nor root: name one of yours"
    )


def test_a_preset_with_an_entry_that_cannot_be_is_named(home: Path) -> None:
    config = LocalSandboxConfig(presets={"all": ["*.com"]})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"preset `@all`: allowed_hosts entry `\*\.com` allows all of"):
        config.expanded(["@all"])
    with pytest.raises(InvalidRequest, match="must be a list of entries"):
        LocalSandboxConfig(presets={"all": "web.test"})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r'an allow-list is a list: write \["web.test"\]'):
        config.expanded("web.test")


# Who reads them


def test_a_broken_file_hinders_what_needs_none(alcove: Cli, tmp_path: Path) -> None:
    box = alcove.create()
    alcove.environment["ALCOVE_CONFIG"] = str(write(tmp_path / "config.toml", "[egres]"))
    for words in (["run", "--", "true"], ["ls"], ["show", box], ["net", box], ["net", "log", box, "--json"]):
        alcove.out(*words)
    for words in (
        ["run", "--allow", "web.test", "--", "true"],
        ["run", "--keep", "--", "true"],
        ["create"],
        ["exec", box, "--", "true"],
        ["net", "allow", box, "web.test"],
        ["net", box, "host"],
    ):
        assert alcove.refusal(*words).endswith("config.toml: there is no `egres` (did you mean `egress`?)")
    alcove.out("rm", box)
    del alcove.environment["ALCOVE_CONFIG"]


def test_nothing_is_loaded_for_files_that_are_not_there(home: Path) -> None:
    program = "import sys, alcove\nalcove.LocalSandboxConfig.load()\nprint('tomllib' in sys.modules)"
    command = [sys.executable, "-c", program]
    absent = subprocess.run(command, capture_output=True, check=True, text=True)
    write(home / ".config/alcove/config.toml", "")
    present = subprocess.run(command, capture_output=True, check=True, text=True)
    assert (absent.stdout, present.stdout) == ("False\n", "True\n")
