"""The package indexes that this machine's own configuration names, as entries of an allow-list.

What is read is the caller's and the machine's; never what lies in the current directory, which may be anybody's.
"""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from alcove.contract import InvalidRequest, NetworkPolicyError
from alcove.egress.literals import spelled
from alcove.egress.names import HOST_LOOPBACK, canonical, printable

#: Where apt's sources are named.
APT_ETC = Path("/etc/apt")
#: pip's file for all users.
PIP_ETC = Path("/etc/pip.conf")

_ASKED_S = 30
_PIP_COMMANDS = ("install", "download", "wheel")
_PIP_DEFAULT = "from pip._internal.models.index import PyPI; print(PyPI.simple_url, PyPI.file_storage_domain)"
_WEB = {"http": 80, "https": 443}
_APT_FILE = re.compile(r"[A-Za-z0-9_.-]+\.(list|sources)")
_FIELD = re.compile(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", re.MULTILINE)
_APT_LINE = re.compile(r"deb(?:-src)?\s+(?:\[[^\]]*\]\s*)?(\S+)\s")

_Url = tuple[str, str]  # and what named it
_Settings = dict[str, _Url]
_Files = list[tuple[Path, configparser.RawConfigParser]]


class Found(Struct, frozen=True):
    """A host that a tool fetches from: the entry that allows it, and what names it."""

    tool: str
    entry: str
    source: str


def hosts(kinds: Iterable[str]) -> list[Found]:
    """Return the index hosts of `pip`, `npm` and `apt`, as configured right now; files and paths are none.

    Raises:
        InvalidRequest: a kind is none of these.
        NetworkPolicyError: a tool is not here to be asked, or its configuration cannot be read.
    """
    found: dict[tuple[str, str], Found] = {}
    for kind in kinds:
        if kind not in TOOLS:
            raise InvalidRequest(f"package tool `{printable(kind)}` is not known: write {', '.join(TOOLS)}")
        for url, source in TOOLS[kind]():
            for entry in _entries(kind, url, source):
                found.setdefault((kind, entry), Found(kind, entry, source))
    return list(found.values())


# URLs


def _entries(tool: str, url: str, source: str) -> Iterator[str]:
    """Yield the entry for a URL, without the user name and password it may have; none for files and paths."""
    if url.partition(":")[0].lower() not in _WEB:
        return
    try:
        yield _entry(urlsplit(url))
    except ValueError:
        # from None: the URL may have a password in it
        raise NetworkPolicyError(
            f"a URL for {tool} in {source} has no host: correct it, or write --allow HOST"
        ) from None


def _entry(parts: SplitResult) -> str:
    host, usual = parts.hostname or "", _WEB[parts.scheme.lower()]
    port = parts.port or usual
    try:
        return spelled(ip_address(host), port)
    except ValueError:
        name = canonical(host)
    if name == "localhost":
        return f"{HOST_LOOPBACK}:{port}"
    return name if port == usual else f"{name}:{port}"


# pip


def _pip() -> Iterator[_Url]:
    """What pip does for its commands: their own section over `global`, and the environment over both."""
    files = _pip_files()
    for command in _PIP_COMMANDS:
        settings = _pip_section(files, "global") | _pip_section(files, command) | _pip_environment()
        indexes = _pip_indexes(settings)
        yield from indexes
        yield from _pip_storage(indexes)
        yield from _words(settings.get("find-links"))


def _pip_indexes(settings: _Settings) -> list[_Url]:
    if settings.get("no-index", ("", ""))[0].strip().lower() in {"1", "true", "yes", "on", "y", "t"}:
        return []
    index = settings.get("index-url") or (_pip_default()[0], "pip's default")
    return [index, *_words(settings.get("extra-index-url"))]


def _pip_files() -> _Files:
    """Read in pip's order, the later over the earlier (pip's documentation, "Configuration Files")."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path.home()
    own = Path(named).expanduser() if named else None
    paths = [Path(place, "pip/pip.conf") for place in _listed("XDG_CONFIG_DIRS", "/etc/xdg")] + [PIP_ETC]
    if own is None or not own.exists():
        config = os.environ.get("XDG_CONFIG_HOME") or home / ".config"
        paths += [home / ".pip/pip.conf", Path(config, "pip/pip.conf")]
    paths += [Path(sys.prefix, "pip.conf"), *([own] if own else [])]
    return [(path, _ini(path)) for path in paths]


def _listed(variable: str, default: str) -> list[str]:
    return [place for place in (os.environ.get(variable) or default).split(os.pathsep) if place]


def _ini(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    text = _text(path)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        # its message shows the line, which may have a password in it
        raise NetworkPolicyError(f"{path} is no INI file ({type(error).__name__}): correct it") from None
    return parser


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise NetworkPolicyError(f"cannot read {path}: {error}") from None


def _pip_section(files: _Files, section: str) -> _Settings:
    merged = {
        _pip_key(key): (value, str(path))
        for path, parser in files
        if parser.has_section(section)
        for key, value in parser.items(section)
    }
    return {key: setting for key, setting in merged.items() if setting[0]}  # pip takes an empty one for none


def _pip_environment() -> _Settings:
    return {
        _pip_key(name[len("PIP_") :]): (value, name)
        for name, value in os.environ.items()
        if name.startswith("PIP_") and value
    }


def _pip_key(key: str) -> str:
    return key.lower().replace("_", "-").removeprefix("--")


def _words(setting: _Url | None) -> list[_Url]:
    return [(word, setting[1]) for word in setting[0].split()] if setting else []


def _pip_storage(indexes: list[_Url]) -> Iterator[_Url]:
    """The host that pip's default index keeps its files on, where that index is in use."""
    if any(urlsplit(url).scheme in _WEB for url, _ in indexes):
        index, storage = _pip_default(required=False)
        for url, source in indexes:
            if storage and urlsplit(url).hostname == urlsplit(index).hostname:
                yield f"https://{storage}/", source


def _pip_default(*, required: bool = True) -> tuple[str, str]:
    """Ask pip for the index it has built in and where that keeps its files."""
    for python in dict.fromkeys([sys.executable, shutil.which("python3") or ""]):
        if python and (answer := _asked_pip(python)):
            return answer
    if required:
        raise NetworkPolicyError("no pip is here to name its default index: install pip, or set PIP_INDEX_URL")
    return "", ""


@cache
def _asked_pip(python: str) -> tuple[str, str] | None:
    words = (_asked([python, "-I", "-c", _PIP_DEFAULT]) or "").split()
    return (words[0], words[1]) if len(words) == 2 else None


# npm


def _npm() -> Iterator[_Url]:
    """The registry, and those of single scopes. npm fetches what a lock file places elsewhere from these as well."""
    if shutil.which("npm") is None:
        raise NetworkPolicyError("no npm is here to name its registry: install it, or write --allow HOST")
    try:
        settings = json.loads(_asked(["npm", "config", "list", "--json"]) or "")
        registries = {key: value for key, value in settings.items() if key.rpartition(":")[2] == "registry"}
    except (ValueError, AttributeError):
        raise NetworkPolicyError(
            "`npm config list --json` tells no configuration: run it, or write --allow HOST"
        ) from None
    yield from ((str(value), f"npm's {printable(key)}") for key, value in registries.items())


# apt


def _apt() -> Iterator[_Url]:
    """The archives of sources.list and its directory (sources.list(5)), with those that a mirror list names."""
    named = list(_apt_sources())
    if not named:
        raise NetworkPolicyError(f"{APT_ETC} names no package source: add one, or write --allow HOST")
    for url, source in named:
        # mirror+https, tor+http: the last is how it is fetched (apt-transport-mirror(1))
        scheme, _, rest = url.partition(":")
        method = scheme.rpartition("+")[2]
        if scheme.startswith("mirror+") and method == "file":
            mirrors = Path("/" + rest.lstrip("/"))
            yield from ((line.split()[0], str(mirrors)) for line in _lines(_text(mirrors)))
        else:
            yield f"{'http' if method == 'mirror' else method}:{rest}", source


def _apt_sources() -> Iterator[_Url]:
    directory = APT_ETC / "sources.list.d"
    try:
        parts = sorted(path for path in directory.iterdir() if _APT_FILE.fullmatch(path.name))
    except FileNotFoundError:
        parts = []
    for path in [APT_ETC / "sources.list", *parts]:
        text = _text(path)
        urls = _stanza_urls(text) if path.suffix == ".sources" else _line_urls(text)
        yield from ((url, str(path)) for url in urls)


def _lines(text: str) -> Iterator[str]:
    yield from (line for raw in text.splitlines() if (line := raw.partition("#")[0].strip()))


def _line_urls(text: str) -> Iterator[str]:
    yield from (found[1] for line in _lines(text) if (found := _APT_LINE.match(line)))


def _stanza_urls(text: str) -> Iterator[str]:
    """The `URIs` of deb822 stanzas that are not disabled."""
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", uncommented):
        fields = {name.lower(): value for name, value in _FIELD.findall(stanza)}
        if fields.get("enabled", "yes").strip().lower() not in {"no", "false", "without", "off", "disable"}:
            yield from fields.get("uris", "").split()


def _asked(argv: list[str]) -> str | None:
    """Return what a program prints, run where no project's configuration lies; None if it cannot."""
    try:
        done = subprocess.run(
            argv, capture_output=True, check=True, cwd="/", stdin=subprocess.DEVNULL, text=True, timeout=_ASKED_S
        )
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return None
    return done.stdout


#: What each kind of package reads.
TOOLS: dict[str, Callable[[], Iterator[_Url]]] = {"pip": _pip, "npm": _npm, "apt": _apt}
