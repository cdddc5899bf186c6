"""``python -m bench``: choose the cases, run them, show and keep the figures."""

import argparse
import fnmatch
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import chart, table
from bench.cases import CASES
from bench.contender import Case
from bench.document import Document, encode
from bench.measure import Options, measure
from bench.peers import peers
from bench.plain_user import UserError, run_as
from bench.progress import ProgressLine
from bench.pss import OwnEyes, PssReader, RootsEyes
from bench.targets import TARGETS, missed

RESULTS = Path(__file__).parent.parent / "build" / "bench"
SCRATCH = Path("/var/tmp")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    made.add_argument("--quick", action="store_true", help="fewer rounds and shorter bursts; for a look, not a claim")
    made.add_argument("--rounds", type=_positive, metavar="N", help="rounds of every case, in place of each one's own")
    made.add_argument("--only", action="append", default=[], metavar="CASE", help="these cases (commas, * and ? work)")
    made.add_argument("--json", action="store_true", help="print the document instead of the tables")
    made.add_argument("--list", action="store_true", help="name the cases, the targets and the runtimes, and end")
    made.add_argument("--check", action="store_true", help="end with 1 if a target is missed or was not measured")
    made.add_argument("--user", metavar="NAME", help="run as this plain user; needs root")
    made.add_argument("--python", metavar="PATH", help="the interpreter for --user")
    made.add_argument("--dir", type=Path, default=SCRATCH, help=f"where files are made and deleted (default {SCRATCH})")
    made.add_argument("--out", type=Path, default=RESULTS, help="where the document and the chart go")
    # Between root and the run it starts as a plain user.
    made.add_argument("--pss-fd", type=int, help=argparse.SUPPRESS)
    made.add_argument("--result-fd", type=int, help=argparse.SUPPRESS)
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} rounds: at least one is needed")
    return number


def choose(patterns: Sequence[str], *, quick: bool, cases: Sequence[Case] = CASES) -> list[Case]:
    """The cases that the patterns name; without patterns all, in a quick run without the long ones.

    Raises:
        ValueError: a pattern names no case.
    """
    wanted = [word for pattern in patterns for word in pattern.split(",") if word]
    for word in wanted:
        if not any(fnmatch.fnmatch(case.id, word) for case in cases):
            raise ValueError(f"no case is named {word}; there are: {', '.join(case.id for case in cases)}")
    if wanted:
        return [case for case in cases if any(fnmatch.fnmatch(case.id, word) for word in wanted)]
    return [case for case in cases if case.quick or not quick]


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.list:
        show_list()
        return 0
    try:
        cases = choose(options.only, quick=options.quick)
        document = _as_user(options) if options.user else _here(cases, options)
    except (ValueError, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    if options.result_fd is not None:
        with os.fdopen(options.result_fd, "wb") as result:
            result.write(encode(document))
        return 0
    report(document, options)
    return status(document, check=options.check)


def _here(cases: Sequence[Case], options: argparse.Namespace) -> Document:
    # Every command inherits the same silent standard input.
    with Path("/dev/null").open("rb") as silence:
        os.dup2(silence.fileno(), 0)
    eyes: PssReader = OwnEyes() if options.pss_fd is None else RootsEyes(socket.socket(fileno=options.pss_fd))
    chosen = Options(quick=options.quick, rounds=options.rounds, parent=options.dir)
    return measure(cases, chosen, eyes, ProgressLine())


def _as_user(options: argparse.Namespace) -> Document:
    passed = [f"--only={pattern}" for pattern in options.only]
    passed += ["--quick"] if options.quick else []
    passed += [f"--rounds={options.rounds}"] if options.rounds else []
    return run_as(options.user, passed, options.dir, options.python)


def report(document: Document, options: argparse.Namespace) -> None:
    """Tables or JSON on standard output; the document and the chart into the directory for results."""
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / ("root" if document.host.uid == 0 else "user")
    kept = [stem.with_suffix(".json")]
    kept[0].write_bytes(encode(document))
    note = ""
    try:
        kept += chart.draw(document, stem)
    except ImportError:
        note = chart.INSTALL
    if options.json:
        sys.stdout.buffer.write(encode(document))
    else:
        table.show(document)
    print("\n".join([*(f"written: {path}" for path in kept), *([note] if note else [])]), file=sys.stderr)


def status(document: Document, *, check: bool) -> int:
    """1 where something of ours failed or was left behind, or, when checking, where a target does not hold."""
    failed = [
        failure.contender
        for case in document.cases
        for failure in case.failures
        if failure.contender.startswith("alcove") or failure.contender == case.baseline
    ]
    if failed or document.left_behind:
        return 1
    return 1 if check and missed(document.targets) else 0


def show_list() -> None:
    print("cases")
    for case in CASES:
        rounds = f"{case.rounds.full} rounds" + (
            f", quick {case.rounds.quick}" if case.quick else ", not in quick runs"
        )
        print(f"  {case.id:12} {case.title} ({rounds})")
    print("targets")
    for target in TARGETS:
        print(f"  {target.id:14} {target.sentence()}")
    print("runtimes")
    for runtime in peers(SCRATCH):
        print(f"  {runtime.name:12} {runtime.version() or 'absent':16} {runtime.how}")
