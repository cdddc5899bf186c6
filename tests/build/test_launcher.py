"""The launcher as it was built: what is in a wheel, what its switches are, and what the compiler said."""

import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.package_files import package_files
from tests.conftest import PlainUser

TREE = Path(__file__).parent.parent.parent
LAUNCHER = Path(sys.executable).parent / "alcove-warden"
# The version, how it is linked, and not one word of a switch
RELEASED = re.compile(r"alcove-warden \d+\.\d+\.\d+ (static-pie|static|dynamic)")
OFF = re.compile(r"option\('off'.*?choices: \[(.*?)]", re.DOTALL)
LAYERS = re.findall(r"'(\w+)'", "".join(OFF.findall((TREE / "meson_options.txt").read_text())))

Variant = Callable[..., Path]


def version(launcher: Path) -> str:
    done = subprocess.run([launcher, "--version"], capture_output=True, check=True, text=True, timeout=10)
    assert done.stderr == ""
    return done.stdout.strip()


def meson(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).parent / "meson"), *arguments]
    return subprocess.run(argv, capture_output=True, check=False, cwd=TREE, text=True, timeout=50)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir"]
    argv += ["--verbose", "--wheel-dir", str(directory), f"-Cbuild-dir={directory / 'build'}", str(TREE)]
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        argv, capture_output=True, check=False, env={"PATH": path, "LC_ALL": "C"}, text=True, timeout=55
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return next(directory.glob("*.whl"))


@pytest.fixture
def in_wheel(wheel: Path, tmp_path: Path) -> Path:
    """Take the launcher out of a wheel."""
    launcher = tmp_path / "alcove-warden"
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/alcove-warden"))
        launcher.write_bytes(archive.read(name))
        assert archive.getinfo(name).external_attr >> 16 & 0o777 == 0o755
    launcher.chmod(0o755)
    return launcher


def test_a_wheel_holds_a_launcher_without_test_switches(in_wheel: Path) -> None:
    assert RELEASED.fullmatch(version(in_wheel))
    assert re.search(rb"off:|faults|sanitize:|ALCOVE_(OFF|FAULT|TEST)", in_wheel.read_bytes()) is None


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {f"purelib/{path}" for path in package_files(TREE / "src", "alcove")}
    held = {name for name in names if ".dist-info/" not in name}
    assert {name.partition(".data/")[2] for name in held} == package | {"scripts/alcove-warden"}


def test_one_wheel_serves_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"alcove-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)


@pytest.mark.user
def test_the_installed_launcher_is_a_released_one(plain_user: PlainUser) -> None:
    done = plain_user.run(str(plain_user.python.parent / "alcove-warden"), "--version")
    assert RELEASED.fullmatch(done.stdout.strip()), done.stderr


def test_the_launcher_has_no_writable_code_and_no_executable_stack(in_wheel: Path) -> None:
    headers = subprocess.run(
        ["readelf", "-Wl", in_wheel], capture_output=True, check=True, text=True, timeout=10
    ).stdout
    flags = {m[1]: m[2] for m in re.finditer(r"^\s+(\w+)(?:\s+0x\w+){5}\s+([RWE ]{3})", headers, re.MULTILINE)}
    assert "RWE" not in flags.values()
    assert flags["GNU_STACK"].strip() == "RW"
    assert "GNU_RELRO" in flags


@pytest.mark.parametrize("option", ["-Doff=seccomp", "-Dfaults=true", "-Dfuzz=true", "-Db_sanitize=address"])
def test_a_switch_is_refused_in_a_build_that_is_not_for_tests(option: str, tmp_path: Path) -> None:
    done = meson("setup", str(tmp_path / "build"), option)
    assert done.returncode != 0
    assert "-Dtest_build=true" in done.stdout


def test_a_test_build_installs_no_launcher(tmp_path: Path) -> None:
    build = str(tmp_path / "build")
    assert meson("setup", build, "-Dtest_build=true", "-Dnative_only=true", "-Doff=seccomp").returncode == 0
    assert meson("introspect", build, "--installed").stdout.strip() == "{}"


def test_a_sanitized_launcher_says_so(native_variant: Variant) -> None:
    launcher = native_variant("sanitized", "-Db_sanitize=address,undefined", "-Doptimization=1", "-Ddebug=true")
    assert version(launcher).endswith(" dynamic sanitize:address sanitize:undefined")


@pytest.mark.parametrize(
    "options", [["-Doptimization=0", "-Ddebug=true"], ["-Doptimization=3"], ["-Dstatic=no"]], ids=str
)
def test_other_ways_to_build_it_warn_of_nothing(options: list[str], tmp_path: Path) -> None:
    build = str(tmp_path / "build")
    told = meson("setup", build, "-Dnative_only=true", *options)
    built = meson("compile", "-C", build)
    assert (told.returncode, built.returncode) == (0, 0), told.stdout + built.stdout
    assert "warning" not in (told.stdout + told.stderr + built.stdout + built.stderr).lower()


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_switch_means_something(layer: str) -> None:
    sources = "\n".join(path.read_text() for path in sorted((TREE / "native").glob("*.[ch]")))
    assert re.search(rf"\bALCOVE_OFF_{layer.upper()}\b", sources)


@pytest.mark.mutation
@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_can_be_compiled_out(layer: str, native_variant: Variant) -> None:
    launcher = native_variant(f"no-{layer}", f"-Doff={layer}")
    assert launcher.stat().st_mode & stat.S_IXUSR
    assert version(launcher).endswith(f" off:{layer}")
