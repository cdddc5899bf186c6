"""The documents of an OCI image layout, read from a stranger and written so that other tools read them.

Sources: OCI Image Format Specification 1.1 (image-layout.md, image-index.md, manifest.md, config.md, descriptor.md).
Unknown fields are passed over, as it asks; a digest is one only in the form that it has here, so that no path is ever
made of anything else.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Struct, field

from alcove.contract import InvalidRequest
from alcove.state.compression import Compression
from alcove.state.limits import refused

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
BLOBS: Final = "blobs/sha256"

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPES: Final = {
    Compression.NONE: "application/vnd.oci.image.layer.v1.tar",
    Compression.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
    Compression.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
}

#: Our annotations: the format of the rest, a layer's tree digest, and before each key of a snapshot's metadata.
FORMAT_KEY: Final = "org.alcove.format"
TREE_KEY: Final = "org.alcove.layer.digest"
METADATA_PREFIX: Final = "org.alcove.metadata."
NAME_KEY: Final = "org.opencontainers.image.ref.name"
FORMAT: Final = "1"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_METADATA_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,255}")  # image-layout.md, "ref.name", without its `--`

_Document = TypeVar("_Document")


class Layout(Struct, frozen=True, rename="camel"):
    """The file `oci-layout`."""

    image_layout_version: str = "1.0.0"


class Platform(Struct, frozen=True):
    """What an image runs on."""

    architecture: str
    os: str = "linux"


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a blob is, and which."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Index(Struct, frozen=True, rename="camel"):
    """The file `index.json`: the images of a layout."""

    manifests: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = INDEX_TYPE


class Manifest(Struct, frozen=True, rename="camel", omit_defaults=True):
    """An image: its configuration and its layers, the lowest first."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = field(default="", name="mediaType")
    annotations: dict[str, str] | None = None


class RootFs(Struct, frozen=True):
    """The digests of an image's layers as they are when they are not compressed."""

    diff_ids: tuple[str, ...]
    type: str = "layers"


class Run(Struct, frozen=True, rename="pascal"):
    """How to run an image, for others."""

    working_dir: str = "/workspace"


class Config(Struct, frozen=True):
    """An image's configuration."""

    architecture: str
    os: str
    rootfs: RootFs
    config: Run | None = None


def encode(document: Layout | Index | Manifest | Config) -> bytes:
    """Write a document; the same one always as the same bytes."""
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes, kind: type[_Document], what: str) -> _Document:
    """Read a document.

    Raises:
        InvalidRequest: it is none of that kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(f"{what} is not what it should be: {str(error)[:200]}") from None


def hexadecimal(digest: str) -> str:
    """Return the part of a digest that a blob is named by.

    Raises:
        InvalidRequest: it is no SHA-256 digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise refused(f"a digest is not sha256 and 64 digits: {digest[:80]!r}")
    return digest.removeprefix("sha256:")


def compression_of(layer: Descriptor) -> Compression:
    """Tell how a layer is compressed.

    Raises:
        InvalidRequest: it is no layer, or compressed in a way that is not known here.
    """
    for compression, media_type in LAYER_TYPES.items():
        if layer.media_type == media_type:
            return compression
    raise refused(f"a layer is of the type {layer.media_type[:80]!r}")


def metadata_annotations(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return annotations that carry `metadata`.

    Raises:
        InvalidRequest: a key is none.
    """
    for key in metadata:
        if not _METADATA_KEY.fullmatch(key):
            raise InvalidRequest(f"snapshot metadata key {key!r} must match {_METADATA_KEY.pattern}")
    return {METADATA_PREFIX + key: value for key, value in sorted(metadata.items())}


def metadata_of(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that annotations carry, as a stranger wrote it."""
    cut = len(METADATA_PREFIX)
    return {key[cut:]: value for key, value in annotations.items() if key.startswith(METADATA_PREFIX)}


def checked_name(name: str) -> str:
    """Return `name` if an image in a layout can have it.

    Raises:
        InvalidRequest: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"image name {name!r} must match {_NAME.pattern}")
    return name
