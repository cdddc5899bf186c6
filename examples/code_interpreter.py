"""A code interpreter: Python cells in, text and files out.

Variables live on between cells, because every cell begins with what the last one pickled; files live on by themselves.
What a cell writes to /mnt/session/outputs is the caller's to fetch.
"""

from pathlib import Path

from alcove import OUTPUTS_MOUNT, ExecResult, Sandbox

RUNNER = """
import pickle, sys
try:
    with open("/workspace/.state", "rb") as file:
        state = pickle.load(file)
except FileNotFoundError:
    state = {}
state["__name__"] = "__main__"
try:
    exec(compile(sys.stdin.read(), "<cell>", "exec"), state)
finally:
    kept = {}
    for name, value in state.items():
        try:
            kept[name] = pickle.loads(pickle.dumps(value))
        except Exception:
            pass  # a module, an open file: the next cell does without
    with open("/workspace/.state", "wb") as file:
        pickle.dump(kept, file)
"""


class Interpreter:
    """Runs cells in one session."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        outputs = next(mount.host_path for mount in box.session.mounts if mount.target == OUTPUTS_MOUNT)
        self._outputs = Path(outputs or "/nowhere")  # a remote backend tells no path of its host

    def run(self, cell: str) -> ExecResult:
        return self._box.run(["python3", "-c", RUNNER], stdin=cell, timeout=30)

    def files(self) -> dict[str, bytes]:
        """Return what the cells have left, but for links: those would be read on this side."""
        found = (path for path in self._outputs.iterdir() if path.is_file() and not path.is_symlink())
        return {path.name: path.read_bytes() for path in found}


WRITE = """
import csv, os
with open(os.environ["ALCOVE_OUTPUTS_DIR"] + "/squares.csv", "w") as file:
    csv.writer(file).writerows(enumerate(squares))
"""
CELLS = [
    "squares = [n * n for n in range(10)]; print(sum(squares))",
    WRITE,
    "1 / 0",
    "print('still here:', squares[-1])",
]

if __name__ == "__main__":
    with Sandbox(pids=100) as box:
        interpreter = Interpreter(box)
        for number, cell in enumerate(CELLS, 1):
            result = interpreter.run(cell)
            print(f"[{number}] {result.stdout or (result.stderr.splitlines() or ['done'])[-1]}".rstrip())
        for name, data in interpreter.files().items():
            print(f"{name}: {len(data)} bytes")
