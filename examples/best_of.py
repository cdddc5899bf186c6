"""Best of many: one prepared session, forked once for each attempt; the attempts run at once and the best one stays."""

from concurrent.futures import ThreadPoolExecutor

from alcove import Sandbox, SandboxSnapshot

PREPARE = "seq 1 2000 | sort -R > numbers; echo unsolved > answer"
TEST = "sort -n numbers | md5sum | cut -d ' ' -f 1 > wanted; md5sum < answer | cut -d ' ' -f 1 | cmp -s - wanted"

ATTEMPTS = {
    "careless": "sort numbers > answer",
    "destructive": "rm -rf /workspace/* 2>/dev/null; echo 1 > answer",
    "wasteful": "cp numbers a; cp a b; sort -n b > answer",
    "right": "sort -n numbers > answer",
}


def attempt(prepared: Sandbox, name: str, program: str) -> tuple[str, bool, int, SandboxSnapshot | None]:
    """Run one attempt in a fork; what solved the task is kept as a snapshot."""
    with prepared.fork(labels={"attempt": name}, wall_time=20) as fork:
        fork.run(program)
        solved = fork.run(TEST).success
        files = int(fork.run("ls | wc -l").stdout)
        return name, solved, files, fork.snapshot() if solved else None


def main() -> None:
    with Sandbox() as prepared:
        prepared.run(PREPARE, check=True)
        with ThreadPoolExecutor(4) as threads:
            outcomes = list(threads.map(lambda item: attempt(prepared, *item), ATTEMPTS.items()))
        print(f"the prepared session still says: {prepared.run('cat answer').stdout.strip()}")
    for name, solved, files, _ in outcomes:
        print(f"  {name:<12}{'solved' if solved else 'failed'}, {files} files")
    name, _, _, best = min((outcome for outcome in outcomes if outcome[1]), key=lambda outcome: outcome[2])
    assert best is not None
    with Sandbox(snapshot=best.snapshot_id) as box:  # hours later, in another process
        print(f"best: {name}, whose answer ends with {box.run('tail -1 answer').stdout.strip()}")
    print("what solved it is kept: alcove snapshots")


if __name__ == "__main__":
    main()
