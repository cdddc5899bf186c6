"""Which lines two texts have in common, within a fixed cost: a guest writes texts that take for ever to compare."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_Match = tuple[int, int]


class Edit(NamedTuple):
    """Lines from `a_start` to before `a_end` of the one text became those from `b_start` to before `b_end`."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int


class _Meter:
    """What may still be spent."""

    def __init__(self, steps: int) -> None:
        self.left = steps


def edits(a: Sequence[bytes], b: Sequence[bytes], steps: int) -> list[Edit]:
    """What to replace in `a` to have `b`, in order: the least that does it, as long as `steps` allow to find that.

    Where they do not, lines that both texts have once divide the work, and what remains too long is replaced whole.
    Sources: Myers, "An O(ND) Difference Algorithm and Its Variations" (1986); Cohen's patience diff for the division.
    """
    numbers: dict[bytes, int] = {}
    one, two = ([numbers.setdefault(line, len(numbers)) for line in text] for text in (a, b))
    start = _common(one, two)
    end = min(_common(one[::-1], two[::-1]), len(one) - start, len(two) - start)
    core = one[start : len(one) - end], two[start : len(two) - end]
    matches = [(x + start, y + start) for x, y in _matches(*core, steps)]
    return _between(matches, start, Edit(start, len(one) - end, start, len(two) - end))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for number, (one, two) in enumerate(zip(a, b, strict=False)):
        if one != two:
            return number
    return min(len(a), len(b))


def _between(matches: Iterable[_Match], start: int, core: Edit) -> list[Edit]:
    found = []
    x, y = start, start
    for next_x, next_y in [*matches, (core.a_end, core.b_end)]:
        if next_x > x or next_y > y:
            found.append(Edit(x, next_x, y, next_y))
        x, y = next_x + 1, next_y + 1
    return found


def _matches(a: list[int], b: list[int], steps: int) -> list[_Match]:
    whole = _shortest(a, b, _Meter(steps // 2))
    if whole is not None:
        return whole
    meter = _Meter(steps // 2)
    found = []
    x, y = 0, 0
    for next_x, next_y in [*_anchors(a, b), (len(a), len(b))]:
        gap = _shortest(a[x:next_x], b[y:next_y], meter) or []
        found += [(x + i, y + j) for i, j in gap]
        found.append((next_x, next_y))
        x, y = next_x + 1, next_y + 1
    return found[:-1]


def _shortest(a: list[int], b: list[int], meter: _Meter) -> list[_Match] | None:
    """The matches of a shortest edit script; None: the meter ran out.

    Row `n` has how far along `a` one comes with `n` edits, for each of the `n` + 1 diagonals `x - y` = -n, 2 - n, … n.
    """
    if not a or not b:
        return []
    rows: list[array[int]] = []
    while meter.left >= 0:
        edited = len(rows)
        row = array("l")
        for number in range(edited + 1):
            begin = _step(rows[-1], number) if rows else 0
            diagonal = 2 * number - edited
            x = _slide(a, b, begin, begin - diagonal)
            row.append(x)
            if x == len(a) and x - diagonal == len(b):
                return _retrace([*rows, row], number)
            meter.left -= 1 + x - begin
        rows.append(row)
    return None


def _goes_down(row: "array[int]", number: int) -> bool:
    """Whether the edit after `row` that leads furthest on a diagonal adds a line of `b`, not removes one of `a`."""
    return number == 0 or (number < len(row) and row[number - 1] < row[number])


def _step(row: "array[int]", number: int) -> int:
    """How far along `a` that edit leads."""
    return row[number] if _goes_down(row, number) else row[number - 1] + 1


def _slide(a: list[int], b: list[int], x: int, y: int) -> int:
    while x < len(a) and y < len(b) and a[x] == b[y]:
        x += 1
        y += 1
    return x


def _retrace(rows: "list[array[int]]", number: int) -> list[_Match]:
    """The matches on the way that led to a diagonal of the last row, found backwards."""
    matches = []
    for edited in range(len(rows) - 1, -1, -1):
        x = rows[edited][number]
        diagonal = 2 * number - edited
        begin = _step(rows[edited - 1], number) if edited else 0
        matches += [(i, i - diagonal) for i in range(x - 1, begin - 1, -1)]
        if edited and not _goes_down(rows[edited - 1], number):
            number -= 1
    return matches[::-1]


def _anchors(a: list[int], b: list[int]) -> list[_Match]:
    """The longest run of lines, in the order of both, that each text has exactly once."""
    in_a, in_b = Counter(a), Counter(b)
    places = {line: y for y, line in enumerate(b) if in_b[line] == 1}
    unique = [(x, places[line]) for x, line in enumerate(a) if in_a[line] == 1 and line in places]
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for number, (_, y) in enumerate(unique):
        place = bisect_left(tails, y)
        before.append(ends[place - 1] if place else -1)
        tails[place : place + 1] = [y]
        ends[place : place + 1] = [number]
    chain = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chain.append(unique[at])
        at = before[at]
    return chain[::-1]
