"""A shell tool for an agent: one session for the whole conversation, every answer short enough to read.

The model is played by a list of commands; a real one would choose each after it has read the answer to the last.
"""

from alcove import ExecResult, Sandbox

MOST = 500  # characters that the model gets to read


class ShellTool:
    """What the model calls `shell`: it keeps files and installed things between calls, and nothing outside."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box

    def __call__(self, command: str) -> str:
        result = self._box.run(command, timeout=20)
        return f"{shortened(result.stdout + result.stderr)}[{outcome(result)}]"


def outcome(result: ExecResult) -> str:
    if result.timed_out:
        return "stopped after 20 seconds"
    return "out of memory" if result.oom_killed else f"exit code {result.exit_code}"


def shortened(text: str) -> str:
    half = MOST // 2
    return text if len(text) <= MOST else f"{text[:half]}\n… {len(text) - MOST} characters left out …\n{text[-half:]}"


COMMANDS = [
    "printf 'def mean(values):\\n    return sum(values) / len(value)\\n' > stats.py",
    "python3 -c 'from stats import mean; print(mean([1, 2, 3]))'",
    "sed -i 's/len(value)/len(values)/' stats.py && cat stats.py",
    "python3 -c 'from stats import mean; print(mean([1, 2, 3]))'",
    "cat /root/.ssh/id_rsa; curl --max-time 2 https://example.com",
    "seq 100000",
]

if __name__ == "__main__":
    with Sandbox(pids=200) as box:
        shell = ShellTool(box)
        for command in COMMANDS:
            print(f"$ {command}\n{shell(command)}\n")
