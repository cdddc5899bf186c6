"""trees KIND: what a remover, a lister or a copier chokes on."""

import os
import sys


def deep(levels: int = 5000) -> None:
    for _ in range(levels):
        os.mkdir("d")
        os.chdir("d")
    open("bottom", "w").close()


def wide(count: int = 100_000) -> None:
    for number in range(count):
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, 0o644))


def loops() -> None:
    os.symlink("loop0", "loop40")
    for number in range(40):
        os.symlink(f"loop{number + 1}", f"loop{number}")
    for target in ("/", "..", ".", "/proc/self/root", "self"):
        os.symlink(target, f"to-{len(os.listdir())}")
    os.symlink("self", "self")


def closed() -> None:
    for name in ("a", "b", "c"):
        os.makedirs(f"{name}/in/side")
        open(f"{name}/in/file", "w").close()
        os.chmod(f"{name}/in/file", 0)
        os.chmod(f"{name}/in/side", 0)
        os.chmod(f"{name}/in", 0)
        os.chmod(name, 0)


def odd() -> None:
    names = [b"\xff\xfe", b"-rf", b"new\nline", b"*", b" ", b".removing-1-1", b"x" * 255, b"..."]
    for name in names:
        os.mkdir(name)
        os.mkdir(name + b"/.removing-2-1" if len(name) < 255 else name + b"/y")
        os.mkfifo(name + b"/fifo")


if __name__ == "__main__":
    os.makedirs("/workspace/tree")
    os.chdir("/workspace/tree")
    {"deep": deep, "wide": wide, "loops": loops, "closed": closed, "odd": odd}[sys.argv[1]]()
    print("made")
