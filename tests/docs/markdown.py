"""Fenced blocks of a page, and what is done with each.

```python            run as a script of its own
```python continued  run after the blocks of the page before it, in one script
```console           each `$ ` line is typed into one bash; what it prints is what follows, `…` standing for anything
```console root      only as root; `user`: only as a plain user
```sh                not run, but read by the shell and by alcove's own command line parser
Anything else is shown, not run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words after it, its text, and the line on which it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    def is_for(self, *, root: bool) -> bool:
        return ("root" not in self.words or root) and ("user" not in self.words or not root)


def pages() -> list[Path]:
    return [*sorted(TREE.glob("*.md")), *sorted(TREE.glob("docs/**/*.md"))]


def blocks(page: Path) -> list[Block]:
    content = page.read_text()
    found = []
    for match in _FENCE.finditer(content):
        language, *words = match["info"].split() or [""]
        indent = len(match["indent"])
        text = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        found.append(Block(language, tuple(words), text, content.count("\n", 0, match.start()) + 1))
    return found


def scripts(page: Path) -> list[tuple[int, str]]:
    """The page's Python: the line where each script begins, and its text with what it continues."""
    found: list[tuple[int, str]] = []
    for block in blocks(page):
        if block.language != "python":
            continue
        before = found[-1][1] if found and "continued" in block.words else ""
        found.append((block.line, before + block.text))
    return found


def typed(text: str) -> list[tuple[str, str]]:
    """A console block as commands and what each is to print; `> ` goes on with the command, as bash's own prompt."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
            continue
        command, expected = found.pop()
        if line.startswith("> ") and not expected:
            found.append((f"{command}\n{line[2:]}", ""))
        else:
            found.append((command, f"{expected}{line}\n"))
    return found


def agrees(expected: str, printed: str) -> bool:
    """Compare line by line, trailing blanks aside; `…` stands for anything, and alone on a line for any lines."""
    pattern = "".join(_line_pattern(line) for line in expected.strip("\n").split("\n")) if expected.strip() else ""
    lines = [line.rstrip() for line in printed.rstrip("\n").split("\n")] if printed.strip() else []
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _line_pattern(line: str) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*?"
    return ".*".join(re.escape(part) for part in line.rstrip().split("…")) + "\n"
