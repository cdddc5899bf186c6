"""How much an archive may ask for before it is refused: as a value, and as the count of what was asked so far."""

from msgspec import Struct

from alcove.contract import InvalidRequest


class ImportLimits(Struct, frozen=True, kw_only=True):
    """What one import may cost; an archive that wants more is refused, and what it had written is removed.

    `total_bytes` counts what comes out of the layers, holes of sparse files included. `ratio` is output over input of
    a compressed stream, and counts once `ratio_floor` bytes have come out. `header_bytes` bounds each header besides
    the fixed one (pax, long name, map of a sparse file), `document_bytes` each JSON document, `window_bytes` the
    memory that a zstd stream may ask its reader for.
    """

    total_bytes: int = 64 << 30
    entries: int = 500_000
    layers: int = 128
    depth: int = 512
    path_bytes: int = 4096
    header_bytes: int = 1 << 20
    document_bytes: int = 4 << 20
    ratio: int = 200
    ratio_floor: int = 1 << 30
    window_bytes: int = 32 << 20


class Meter:
    """What an archive has asked for so far."""

    def __init__(self, limits: ImportLimits) -> None:
        self.limits = limits
        self.bytes = 0
        self.entries = 0

    def add_bytes(self, number: int) -> None:
        """Count bytes that come out, before they are asked for where that can be.

        Raises:
            InvalidRequest: they are too many.
        """
        self.bytes += number
        if self.bytes > self.limits.total_bytes:
            raise refused(f"it unpacks to more than {self.limits.total_bytes} bytes")

    def add_entry(self) -> None:
        """Count a file, directory, link or whiteout.

        Raises:
            InvalidRequest: they are too many.
        """
        self.entries += 1
        if self.entries > self.limits.entries:
            raise refused(f"it has more than {self.limits.entries} entries")


def refused(fact: str) -> InvalidRequest:
    """Return the error for an archive that is not to be used, because of `fact`."""
    return InvalidRequest(f"archive refused: {fact}")
