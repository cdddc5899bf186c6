"""Compressed streams: what a stranger's may expand to is bounded; zstd comes from a package that not everybody has."""

import hashlib
import os
import zlib
from collections.abc import Callable
from enum import StrEnum
from types import ModuleType
from typing import Final

from alcove.contract import InvalidRequest
from alcove.state.archive import CHUNK, Data, Readable, Writable
from alcove.state.limits import ImportLimits, refused

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b"
#: Enough of a stream's beginning to tell how it is compressed.
MAGIC_BYTES: Final = 4

_GZIP = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_MOST_THREADS = 4
# Each member of a gzip stream copies what was fed and belongs to the next: feed little
_FEED = 1 << 14


class Compression(StrEnum):
    """How a layer is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


def detect(beginning: bytes) -> Compression:
    """Tell how a stream is compressed from its first bytes."""
    if beginning.startswith(_ZSTD_MAGIC):
        return Compression.ZSTD
    return Compression.GZIP if beginning.startswith(_GZIP_MAGIC) else Compression.NONE


# Writing


class Digesting:
    """Passes bytes on to `out`, knows their digest and number, and tells `progress` each number that it passed."""

    def __init__(self, out: Writable, progress: Callable[[int], object] | None = None) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._progress = progress
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of what has passed."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: Data) -> None:
        """Pass bytes on."""
        self._hash.update(data)
        self._out.write(data)
        self.size += len(data)
        if self._progress is not None:
            self._progress(len(data))


class Compressing:
    """Compresses bytes on their way to `out`."""

    def __init__(self, out: Writable, compression: Compression) -> None:
        self._out = out
        self._compress, self._finish = _compressor(compression)

    def write(self, data: Data) -> None:
        """Take bytes, and pass on what is ready."""
        if compressed := self._compress(data):
            self._out.write(compressed)

    def finish(self) -> None:
        """Pass on all that is left."""
        if compressed := self._finish():
            self._out.write(compressed)


def _compressor(compression: Compression) -> tuple[Callable[[Data], Data], Callable[[], bytes]]:
    if compression is Compression.NONE:
        return (lambda data: data), bytes
    if compression is Compression.GZIP:
        gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
        return gzip.compress, gzip.flush
    # What comes out is the same for any number of threads but none
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    zstd = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL, threads=threads, write_checksum=False).compressobj()
    return zstd.compress, zstd.flush


# Reading


class Digested:
    """A stream whose digest is known once it has been read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The digest of what has been read."""
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int) -> Data:
        """Read on."""
        data = self._stream.read(size)
        self._hash.update(data)
        return data


def decompressed(stream: Readable, compression: Compression, limits: ImportLimits) -> Readable:
    """Return what a stream expands to, as long as it stays within limits.

    Raises:
        InvalidRequest: it is zstd, and the package for that is not installed.
    """
    if compression is Compression.NONE:
        return stream
    source = _Counted(stream)
    inner = _Gunzip(source) if compression is Compression.GZIP else _Unzstd(source, limits)
    return _Rationed(source, inner, limits)


class _Counted:
    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.size = 0

    def read(self, size: int = CHUNK) -> bytes:
        data = bytes(self._stream.read(size))
        self.size += len(data)
        return data


class _Rationed:
    """What comes out, held against what went in."""

    def __init__(self, source: _Counted, inner: Readable, limits: ImportLimits) -> None:
        self._source = source
        self._inner = inner
        self._limits = limits
        self._size = 0

    def read(self, size: int) -> Data:
        data = self._inner.read(min(size, CHUNK))
        self._size += len(data)
        if self._size > self._limits.ratio_floor and self._size > self._limits.ratio * self._source.size:
            raise refused(f"it expands to more than {self._limits.ratio} times its size: allow more if it may")
        return data


class _Gunzip:
    """The members of a gzip stream, one after the other; not `gzip`, which reads a header's name byte by byte."""

    def __init__(self, source: _Counted) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(_GZIP)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._inflate.eof:
                self._rest = self._inflate.unused_data or self._source.read(_FEED)
                if not self._rest:
                    return b""
                self._inflate = zlib.decompressobj(_GZIP)
            data = self._step(size)
            if data:
                return data

    def _step(self, size: int) -> bytes:
        feed = self._rest or self._source.read(_FEED)
        try:
            data = self._inflate.decompress(feed, size)
        except zlib.error:
            raise refused("its gzip stream is damaged") from None
        self._rest = self._inflate.unconsumed_tail
        if not feed and not data and not self._inflate.eof:
            raise refused("its gzip stream ends in the middle")
        return data


class _Unzstd:
    """The frames of a zstd stream, one after the other."""

    def __init__(self, source: _Counted, limits: ImportLimits) -> None:
        package = _zstandard()
        self._error: type[Exception] = package.ZstdError
        opener = package.ZstdDecompressor(max_window_size=limits.window_bytes)
        self._stream = opener.stream_reader(source, read_across_frames=True, closefd=False)

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except self._error as error:
            raise refused(f"its zstd stream is damaged, or wants too much memory ({error})") from None
        return data


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise InvalidRequest(
            "zstd needs the package zstandard: pip install 'alcove[zstd]', or choose the compression gzip"
        ) from None
    return zstandard
