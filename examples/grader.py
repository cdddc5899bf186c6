"""A grader: many submissions at once, each in a session of its own, with a limit of time, memory and processes."""

import asyncio

from alcove import AsyncSandbox, LocalSandbox

TASK = "print the sum of the numbers on standard input"
CASES = {"1 2 3": "6", "": "0", "10 -4": "6"}

SUBMISSIONS = {
    "ada": "print(sum(map(int, input().split())))",
    "grace": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "loop": "while True: pass",
    "hog": "data = []\nwhile True: data.append(bytearray(1 << 24))",
    "bomb": "import os\nwhile True: os.fork()",
    "cheat": "print(open('/proc/1/environ').read())",
}
AT_ONCE = 4


async def grade(backend: LocalSandbox, program: str) -> str:
    """Return the verdict on one submission."""
    # best_effort: where this host gives a plain user no memory controller, the limit is one of each process
    async with AsyncSandbox(backend=backend, wall_time=2, memory_mb=256, pids=32, best_effort=True) as box:
        for given, expected in CASES.items():
            result = await box.run(["python3", "-c", program], stdin=given)
            if result.timed_out:
                return "too slow"
            if result.oom_killed or "MemoryError" in result.stderr:
                return "too much memory"
            if not result.success:
                return f"failed for `{given}`: {(result.stderr.splitlines() or ['killed'])[-1]}"
            if result.stdout.strip() != expected:
                return f"wrong for `{given}`"
    return "passed"


async def main() -> None:
    backend = LocalSandbox()
    free = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, program: str) -> tuple[str, str]:
        async with free:
            return name, await grade(backend, program)

    print(f"Task: {TASK}")
    for name, verdict in await asyncio.gather(*(one(*submission) for submission in SUBMISSIONS.items())):
        print(f"  {name:<8}{verdict}")
    await backend.aclose()


if __name__ == "__main__":
    asyncio.run(main())
