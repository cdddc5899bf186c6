"""From nothing to a working package, with the machine's own package indexes."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TREE = Path(__file__).parent.parent.parent
KEPT = ("PIP_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def bare_environment(home: Path) -> dict[str, str]:
    """Return what a program sees at a first login: no variable of ours, but the machine's way to its indexes."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    python = Path(getattr(sys, "_base_executable", sys.executable)).parent
    return {**kept, "HOME": str(home), "PATH": f"{python}:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what a clone of this tree would hold, at another place."""
    place = tmp_path / "checkout"
    place.mkdir()
    left_out = ["--exclude=./.git", "--exclude=./build", "--exclude=./.venv*", "--exclude=__pycache__"]
    packed = subprocess.run(["tar", *left_out, "-cf", "-", "."], capture_output=True, check=True, cwd=TREE, timeout=60)
    unpack = ["tar", "--no-same-owner", "-xf", "-"]
    subprocess.run(unpack, check=True, cwd=place, input=packed.stdout, timeout=60)
    return place


@pytest.mark.user
def test_make_sets_up_a_fresh_checkout_and_then_does_nothing(checkout: Path, tmp_path: Path) -> None:
    environment = bare_environment(tmp_path)
    for expected in ("building and installing alcove", ""):
        done = subprocess.run(
            ["make", "--no-print-directory", "setup"],
            capture_output=True,
            check=False,
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=500,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert done.stdout.rpartition("\n")[0].rpartition("\n")[2] == expected
    launcher = checkout / ".venv/bin/alcove-warden"
    assert subprocess.run([launcher, "--version"], check=True, timeout=10, stdout=subprocess.DEVNULL).returncode == 0


def test_pip_installs_it_as_a_user_would(checkout: Path, tmp_path: Path) -> None:
    environment = bare_environment(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = str(tmp_path / "venv/bin/python")
    argv = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(checkout)]
    done = subprocess.run(argv, capture_output=True, check=False, env=environment, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = [str(tmp_path / "venv/bin/alcove"), "--help"]
    helped = subprocess.run(tried, capture_output=True, check=False, env=environment, text=True, timeout=30)
    assert (helped.returncode, helped.stderr) == (0, "")
