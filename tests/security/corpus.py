"""The hostile programs, compiled once for a run, in a directory that a session can be shown."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "hostile"
#: Where a session sees the corpus.
PLACE = "/mnt/hostile"
_ONLY_X86 = {"gate32"}


def build(directory: Path) -> Path:
    """Compile the C programs and copy the Python ones into `directory`, as modules of `tests.security.hostile`."""
    directory.mkdir(mode=0o755)
    modules = directory / "tests" / "security" / "hostile"
    modules.mkdir(parents=True)
    for source in SOURCES.glob("*.py"):
        shutil.copy(source, modules)
    sources = [path for path in SOURCES.glob("*.c") if path.stem not in _ONLY_X86 or platform.machine() == "x86_64"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: compile_one(source, directory / source.stem), sources))
    for path in [directory, *directory.rglob("*")]:  # whatever the umask
        path.chmod(0o755)
    return directory


def compile_one(source: Path, program: Path, *options: str) -> None:
    """Compile one program."""
    argv = ["cc", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", *options, "-o", str(program), str(source)]
    done = subprocess.run([*argv, "-pthread"], capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
