"""Every case, in the order in which it is run and shown."""

from bench.cases.density import DENSITY
from bench.cases.egress import EGRESS_CASES
from bench.cases.io import IO_CASES
from bench.cases.latency import LIVE, NEW
from bench.cases.memory import MEMORY_CASES
from bench.cases.output import OUTPUT_CASES
from bench.cases.phases import COLD, PHASES
from bench.cases.program import PROGRAM
from bench.cases.rates import LIVE_RATE, NEW_RATE
from bench.cases.state import STATE_CASES
from bench.contender import Case

CASES: tuple[Case, ...] = (
    LIVE,
    # Before the cases that end many sessions: what they delete makes new files dear where ext4 has no journal.
    *IO_CASES,
    NEW,
    PHASES,
    COLD,
    PROGRAM,
    LIVE_RATE,
    NEW_RATE,
    *MEMORY_CASES,
    *OUTPUT_CASES,
    *EGRESS_CASES,
    *STATE_CASES,
    DENSITY,
)
