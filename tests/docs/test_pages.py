"""Every example of every page does what the page says, as root and as a plain user."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcove.cli.table import COMMANDS
from tests import keeping
from tests.docs.markdown import TREE, agrees, blocks, pages, scripts, typed

pytestmark = pytest.mark.user

END_ALL = """
import asyncio
from alcove import LocalSandbox
async def end():
    backend = LocalSandbox()
    for session in backend.sessions():
        await backend.terminate(session.id)
    await backend.aclose()
asyncio.run(end())
"""
MARK = "the-next-command-begins-here"
WITHIN_S = 50


def named(page: Path) -> str:
    return str(page.relative_to(TREE))


WITH_PYTHON = [page for page in pages() if scripts(page)]
WITH_CONSOLE = [page for page in pages() if any(block.language == "console" for block in blocks(page))]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A reader's shell: this installation in PATH, a home and a store of its own, and nothing alive afterwards."""
    here = {name: value for name, value in os.environ.items() if not name.startswith(("ALCOVE_", "HARN_"))}
    here |= {
        "ALCOVE_HOME": str(tmp_path / "store"),
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    yield here
    subprocess.run([sys.executable, "-c", END_ALL], env=here, check=True, timeout=WITHIN_S)
    keeping.end(tmp_path / "store")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_python_runs(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    for line, script in scripts(page):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            env=environment,
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, f"{named(page)}:{line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", WITH_CONSOLE, ids=named)
def test_commands_print_what_is_shown(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """One shell for a whole page, so that what one block sets another can use."""
    steps = [
        (block.line, command, expected)
        for block in blocks(page)
        if block.language == "console" and block.is_for(root=os.geteuid() == 0)
        for command, expected in typed(block.text)
    ]
    script = "".join(f"{command}\necho '{MARK}'\n" for _, command, _ in steps)
    done = subprocess.run(
        ["bash", "--norc", "-c", f"exec 2>&1\n{script}"],
        env=environment,
        cwd=tmp_path / "here",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    printed = done.stdout.split(f"{MARK}\n")
    assert len(printed) == len(steps) + 1, f"{named(page)}: the shell ended early\n{done.stdout}{done.stderr}"
    for (line, command, expected), output in zip(steps, printed, strict=False):
        assert agrees(expected, output), f"{named(page)}:{line}\n$ {command}\n{output}\n--- is not ---\n{expected}"


SHELL_LINES = [
    (named(page), block.line, block.text if block.language == "sh" else "\n".join(c for c, _ in typed(block.text)))
    for page in pages()
    for block in blocks(page)
    if block.language in ("sh", "console")
]


@pytest.mark.parametrize(("page", "line", "text"), SHELL_LINES, ids=[f"{page}:{line}" for page, line, _ in SHELL_LINES])
def test_shell_lines_are_read(page: str, line: int, text: str) -> None:
    """What a test cannot run (another distribution's package manager) is at least a command that parses."""
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in alcove_calls(text):
        COMMANDS.parse(words)


def alcove_calls(text: str) -> list[list[str]]:
    """The arguments of each plain call of `alcove` that begins a line."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if match := re.match(r"(?:sudo )?alcove(?: (.*))?$", line):
            lexer = shlex.shlex(match[1] or "", posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words = []
            for word in lexer:
                if word and set(word) <= set("|&;<>"):
                    break
                words.append(word)
            found.append(words)
    return found


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    content = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(content):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{named(page)}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{named(page)}: {target}"


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = (TREE / "README.md").read_text() + (TREE / "docs" / "README.md").read_text()
    for page in pages():
        relative = page.relative_to(TREE)
        assert relative.name in index, f"{relative} is in neither index"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_every_fence_is_a_block(page: Path) -> None:
    fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)

    assert len(fences) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= {"", "python", "console", "sh", "yaml", "json", "text"}


def test_the_harness_notices() -> None:
    assert agrees("a…\n…\nz\n", "abc\n1\n2\nz\n")
    assert agrees("", "")
    assert not agrees("", "something\n")
    assert not agrees("a\n", "b\n")
    assert not agrees("a\n", "a\nb\n")
    assert typed("$ for one\n> two\nout\n$ three\n") == [("for one\ntwo", "out\n"), ("three", "")]
    assert alcove_calls("alcove run --net -- sh -c 'a | b' | wc\nls") == [["run", "--net", "--", "sh", "-c", "a | b"]]
