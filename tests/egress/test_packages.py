"""The index hosts that a machine's configuration names, whoever configured it and however."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alcove.contract import InvalidRequest, NetworkPolicyError
from alcove.egress import packages
from alcove.egress.packages import Found, hosts
from alcove.egress.policy import Policy

pytestmark = pytest.mark.user


class Machine:
    """A machine without configuration: no variables, no files, and an empty home."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.patch = patch
        self.home = root / "home"
        for name in list(os.environ):
            if name.lower().startswith(("pip_", "npm_config_", "xdg_")):
                patch.delenv(name)
        patch.setenv("HOME", str(self.home))
        patch.setenv("XDG_CONFIG_DIRS", f"{root}/xdg1:{root}/xdg2")
        patch.setattr(packages, "PIP_ETC", root / "etc/pip.conf")
        patch.setattr(packages, "APT_ETC", root / "etc/apt")
        patch.setattr(sys, "prefix", str(root / "prefix"))
        patch.setattr(packages, "_asked_pip", lambda python: ("https://index.invalid/simple", "files.invalid"))

    def write(self, path: str, text: str) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def program(self, name: str, script: str) -> None:
        place = self.write(f"bin/{name}", f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        self.patch.setenv("PATH", f"{place.parent}:/usr/bin:/bin")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def entries(*kinds: str) -> list[str]:
    found = hosts(kinds)
    assert [one.tool for one in found] == sorted([one.tool for one in found], key=kinds.index)
    return [one.entry for one in found]


def failure(*kinds: str) -> str:
    with pytest.raises(NetworkPolicyError) as caught:
        hosts(kinds)
    return caught.value.detail


@pytest.mark.parametrize("kind", ["cargo", "", "PIP", "pip,npm"])
def test_an_unknown_kind_is_refused(machine: Machine, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"package tool `{kind}` is not known: write pip, npm, apt"):
        hosts([kind])


def test_no_kinds_are_no_hosts(machine: Machine) -> None:
    assert hosts([]) == []


# pip


def test_pip_without_configuration_uses_its_own_index_and_the_host_of_its_files(machine: Machine) -> None:
    assert hosts(["pip"]) == [
        Found("pip", "index.invalid", "pip's default"),
        Found("pip", "files.invalid", "pip's default"),
    ]


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://pip.example.org/simple", "pip.example.org"),
        ("https://pip.example.org:443/simple", "pip.example.org"),
        ("http://pip.example.org/simple", "pip.example.org"),
        ("http://pip.example.org:80/", "pip.example.org"),
        ("https://pip.example.org:8443/simple", "pip.example.org:8443"),
        ("http://pip.example.org:443/simple", "pip.example.org:443"),
        ("https://pip.example.org:80/simple", "pip.example.org:80"),
        ("HTTPS://PIP.Example.Org./simple", "pip.example.org"),
        ("https://user:secret@pip.example.org/simple", "pip.example.org"),
        ("https://us%40er:se%2Fcret@pip.example.org:8443/simple", "pip.example.org:8443"),
        ("http://10.1.2.3/simple", "10.1.2.3:80"),
        ("https://10.1.2.3:8443/simple", "10.1.2.3:8443"),
        ("https://[2001:db8::1]/simple", "[2001:db8::1]:443"),
        ("http://localhost:3141/root", "host.alcove:3141"),
        ("http://127.0.0.1:3141/root", "host.alcove:3141"),
        ("http://[::1]/root", "host.alcove:80"),
    ],
)
def test_a_url_is_an_entry_that_a_policy_takes(machine: Machine, url: str, entry: str) -> None:
    machine.patch.setenv("PIP_INDEX_URL", url)
    assert hosts(["pip"]) == [Found("pip", entry, "PIP_INDEX_URL")]
    Policy.parse([entry])


@pytest.mark.parametrize(
    "url", ["file:///srv/simple", "/srv/simple", "./wheels", "git+ssh://example.org/x", "FILE:///x"]
)
def test_a_path_names_no_host(machine: Machine, url: str) -> None:
    machine.patch.setenv("PIP_INDEX_URL", url)
    assert hosts(["pip"]) == []


@pytest.mark.security
@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///simple",
        "https://user:hunter2@/simple",
        "https://user:hunter2@[::1/simple",
        "https://user:hunter2@pip.example.org:99999/",
        "https://user:hunter2@*.org/",
        "https://user:hunter2@127.1/",
        "https://user:hunter2@pip\u00e9.example.org/",
    ],
)
def test_a_url_without_a_host_is_told_without_its_password(machine: Machine, url: str) -> None:
    path = machine.write("etc/pip.conf", f"[global]\nindex-url = {url}\n")
    assert failure("pip") == f"a URL for pip in {path} has no host: correct it, or write --allow HOST"


def test_pip_reads_its_files_in_its_order(machine: Machine) -> None:
    places = [
        "xdg1/pip/pip.conf",
        "xdg2/pip/pip.conf",
        "etc/pip.conf",
        "home/.pip/pip.conf",
        "home/.config/pip/pip.conf",
        "prefix/pip.conf",
    ]
    for number, place in enumerate(places):
        machine.write(place, f"[global]\nindex_url = https://at{number}.example.org/\n")
        assert hosts(["pip"]) == [Found("pip", f"at{number}.example.org", str(machine.root / place))]
    machine.patch.setenv("PIP_INDEX_URL", "https://env.example.org/")
    assert entries("pip") == ["env.example.org"]


def test_the_file_that_the_environment_names_stands_for_the_users(machine: Machine) -> None:
    machine.write("etc/pip.conf", "[global]\nextra-index-url = https://etc.example.org/\n")
    machine.write("home/.config/pip/pip.conf", "[global]\nindex-url = https://user.example.org/\n")
    machine.patch.setenv("PIP_CONFIG_FILE", str(machine.root / "own.conf"))
    assert entries("pip") == ["user.example.org", "etc.example.org"]
    machine.write("own.conf", "[install]\nno-index = false\n")
    assert entries("pip") == ["index.invalid", "etc.example.org", "files.invalid"]
    machine.patch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert entries("pip") == ["index.invalid", "files.invalid"]


def test_all_that_pip_would_fetch_from_is_found(machine: Machine) -> None:
    machine.write(
        "etc/pip.conf",
        "[global]\nindex-url = https://a.example.org/simple\n"
        "extra-index-url =\n  https://b.example.org/simple\n  file:///srv/c\n  http://d.example.org:8080/\n"
        "find-links = /srv/wheels https://e.example.org/links.html\n"
        "[download]\nindex-url = https://f.example.org/simple\n"
        "[freeze]\nindex-url = https://unused.example.org/\n"
        "proxy = http://unused.example.org:3128\n",
    )
    a_to_e = ["a.example.org", "b.example.org", "d.example.org:8080", "e.example.org"]
    assert entries("pip") == [*a_to_e, "f.example.org"]
    machine.patch.setenv("PIP_EXTRA_INDEX_URL", "https://g.example.org https://a.example.org/other")
    assert entries("pip") == ["a.example.org", "g.example.org", "e.example.org", "f.example.org"]
    machine.patch.setenv("PIP_NO_INDEX", "1")
    assert entries("pip") == ["e.example.org"]


def test_the_default_index_has_its_files_elsewhere_also_where_it_is_configured(machine: Machine) -> None:
    machine.patch.setenv("PIP_INDEX_URL", "https://mirror.example.org/")
    assert entries("pip") == ["mirror.example.org"]
    machine.patch.setenv("PIP_EXTRA_INDEX_URL", "https://index.invalid/simple/")
    assert entries("pip") == ["mirror.example.org", "index.invalid", "files.invalid"]


def test_an_empty_setting_is_none(machine: Machine) -> None:
    machine.write("etc/pip.conf", "[global]\nindex-url = https://a.example.org/\n")
    machine.patch.setenv("PIP_INDEX_URL", "")
    assert entries("pip") == ["a.example.org"]
    machine.write("home/.config/pip/pip.conf", "[global]\nindex-url =\n")
    assert entries("pip") == ["index.invalid", "files.invalid"]


def test_without_pip_only_its_default_is_unknown(machine: Machine) -> None:
    machine.patch.setattr(packages, "_asked_pip", lambda python: None)
    assert failure("pip") == "no pip is here to name its default index: install pip, or set PIP_INDEX_URL"
    machine.patch.setenv("PIP_INDEX_URL", "https://pip.example.org/")
    assert entries("pip") == ["pip.example.org"]


@pytest.mark.security
def test_a_file_that_is_no_configuration_is_told_without_its_lines(machine: Machine) -> None:
    path = machine.write("etc/pip.conf", "index-url = https://u:hunter2@example.org\n")
    assert failure("pip") == f"{path} is no INI file (MissingSectionHeaderError): correct it"
    path.write_bytes(b"[global]\n\xff\xfe")
    assert failure("pip").startswith(f"cannot read {path}: ")


@pytest.mark.security
def test_what_lies_in_the_current_directory_says_nothing(machine: Machine) -> None:
    machine.program("npm", 'test "$PWD" = / && echo \'{"registry": "https://npm.example.org/"}\'')
    project = machine.write("project/pip.conf", "[global]\nindex-url = https://evil.example.org\n").parent
    (project / "pip").mkdir()
    (project / "pip/__init__.py").write_text("raise SystemExit('ran the project')")
    machine.patch.chdir(project)
    assert entries("pip", "npm") == ["index.invalid", "files.invalid", "npm.example.org"]


def test_pip_itself_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, prefix = packages.PIP_ETC, sys.prefix
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(packages, "PIP_ETC", etc)
    monkeypatch.setattr(sys, "prefix", prefix)
    for number, place in enumerate(["xdg1/pip/pip.conf", "home/.pip/pip.conf", "home/.config/pip/pip.conf"]):
        machine.write(place, f"[global]\nindex-url = https://{number}.example.org\nfind_links = /{number}\n")
    machine.write("xdg2/pip/pip.conf", "[global]\nextra-index-url = https://a.example.org\n  https://b.example.org\n")
    for own in (None, str(machine.write("own.conf", "[global]\nindex-url = https://own.example.org\n"))):
        if own:
            monkeypatch.setenv("PIP_CONFIG_FILE", own)
        argv = [sys.executable, "-I", "-m", "pip", "config", "list"]
        told = subprocess.run(argv, capture_output=True, check=True, cwd="/", text=True, timeout=30).stdout
        theirs: dict[str, str] = {}
        for line in told.splitlines():  # pip 26 lists what each file says, first what counts; before, only that
            key, _, value = line.partition("=")
            if key.startswith("global."):
                theirs.setdefault(key, value)
        ours = packages._pip_section(packages._pip_files(), "global")
        assert {f"global.{key}": value for key, (value, _) in ours.items()} == {
            key: ast.literal_eval(value) for key, value in theirs.items()
        }


def test_pip_is_asked_for_its_default() -> None:
    argv = [sys.executable, "-I", "-m", "pip", "download", "--help"]
    environment = {"COLUMNS": "1000", "PIP_CONFIG_FILE": os.devnull, "PATH": "/usr/bin:/bin"}
    told = subprocess.run(argv, capture_output=True, check=True, cwd="/", env=environment, text=True, timeout=30).stdout
    default = told.partition("--index-url <url>")[2].partition("(default ")[2].partition(")")[0]
    answer = packages._asked_pip(sys.executable)
    assert answer is not None
    assert answer[0].rstrip("/") == default.rstrip("/")
    Policy.parse([answer[1]])


@pytest.mark.parametrize("script", ["exit 1", "echo one", "echo one two three", "printf '\\377 x'"])
def test_an_interpreter_without_pip_answers_nothing(machine: Machine, script: str) -> None:
    machine.patch.undo()
    python = machine.write("bin/python3", f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    assert packages._asked_pip(str(python)) is None
    assert packages._asked_pip(f"{python}-is-not-here") is None


# npm


def test_npm_names_its_registry_and_those_of_scopes(machine: Machine) -> None:
    settings = {
        "registry": "https://npm.example.org/",
        "@acme:registry": "https://user:secret@acme.example.org:8443/npm/",
        "replace-registry-host": "npmjs",
        "proxy": "http://proxy.example.org:3128",
        "fund": False,
    }
    machine.program("npm", f'test "$*" = "config list --json" && echo \'{json.dumps(settings)}\'')
    assert hosts(["npm"]) == [
        Found("npm", "npm.example.org", "npm's registry"),
        Found("npm", "acme.example.org:8443", "npm's @acme:registry"),
    ]


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo not JSON", "echo [1]", "echo null"])
def test_an_npm_that_tells_nothing_is_told(machine: Machine, script: str) -> None:
    machine.program("npm", script)
    assert failure("npm") == "`npm config list --json` tells no configuration: run it, or write --allow HOST"


def test_without_npm_nothing_names_its_registry(machine: Machine) -> None:
    machine.patch.setenv("PATH", str(machine.root))
    assert failure("npm") == "no npm is here to name its registry: install it, or write --allow HOST"


# apt


def test_apt_names_its_archives(machine: Machine) -> None:
    machine.write(
        "etc/apt/sources.list",
        "# deb http://commented.example.org/debian stable main\n"
        "deb http://a.example.org/debian stable main # deb http://also.example.org x y\n"
        "deb-src [arch=amd64 signed-by=/usr/share/k.gpg] https://b.example.org:8443/debian stable main\n"
        "deb cdrom:[Debian 12 [x]/]/ stable main\n"
        "deb file:/srv/mirror ./\n"
        "nonsense http://c.example.org/ x\n",
    )
    machine.write("etc/apt/sources.list.d/d.list", "deb [ trusted=yes ] tor+https://u:p@d.example.org/ ./\n")
    machine.write("etc/apt/sources.list.d/d.list.disabled", "deb http://off.example.org/ ./\n")
    machine.write(
        "etc/apt/sources.list.d/e.sources",
        "# a comment\nTypes: deb deb-src\nURIs: http://e.example.org/debian\n  https://f.example.org/debian\n"
        "# between\n http://g.example.org\nSuites: stable\n\n"
        "Enabled: no\nURIs: http://off.example.org\n \nuris: http://h.example.org:8080/\nEnabled: yes\n",
    )
    found = hosts(["apt"])
    assert [one.entry for one in found] == [
        "a.example.org",
        "b.example.org:8443",
        "d.example.org",
        "e.example.org",
        "f.example.org",
        "g.example.org",
        "h.example.org:8080",
    ]
    assert found[0].source == str(machine.root / "etc/apt/sources.list")
    assert found[-1].source == str(machine.root / "etc/apt/sources.list.d/e.sources")


def test_apt_names_its_mirrors(machine: Machine) -> None:
    mirrors = machine.write(
        "etc/apt/mirrors.txt", "http://a.example.org/debian\tpriority:1\n# x\nhttps://b.example.org/\n\nfile:/srv\n"
    )
    machine.write(
        "etc/apt/sources.list",
        f"deb mirror+file:{mirrors} stable main\n"
        f"deb mirror+file://{mirrors} stable main\n"
        "deb mirror://c.example.org/list stable main\n"
        "deb mirror+https://d.example.org/list stable main\n",
    )
    assert entries("apt") == ["a.example.org", "b.example.org", "c.example.org", "d.example.org"]
    assert hosts(["apt"])[0].source == str(mirrors)


def test_without_sources_apt_names_nothing(machine: Machine) -> None:
    assert failure("apt") == f"{machine.root}/etc/apt names no package source: add one, or write --allow HOST"
    machine.write("etc/apt/sources.list", "deb file:/srv/mirror ./\n")
    assert hosts(["apt"]) == []


def test_a_source_that_cannot_be_read_is_told(machine: Machine) -> None:
    path = machine.write("etc/apt/sources.list", "").with_name("sources.list.d") / "bad.list"
    path.mkdir(parents=True)
    assert failure("apt") == f"cannot read {path}: [Errno 21] Is a directory: '{path}'"


def test_kinds_are_told_in_the_order_they_were_asked_for(machine: Machine) -> None:
    machine.write("etc/apt/sources.list", "deb http://a.example.org/ ./\n")
    machine.program("npm", 'echo \'{"registry": "https://a.example.org/"}\'')
    machine.patch.setenv("PIP_INDEX_URL", "https://a.example.org")
    assert [one.tool for one in hosts(["apt", "pip", "npm", "apt"])] == ["apt", "pip", "npm"]
