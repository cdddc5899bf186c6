"""Members that no layer may have, each with an honest one that is as like it as can be."""

from typing import Any

from tests.state.images import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    header,
    member,
    pax,
    record,
)

XATTR = "SCHILY.xattr."


def directory(path: str, **more: Any) -> bytes:
    return member(path, DIRECTORY, **more)


def file(path: str, content: bytes = b"content", **more: Any) -> bytes:
    return member(path, FILE, content, **more)


def link(path: str, target: str) -> bytes:
    return member(path, LINK, target=target)


def symlink(path: str, target: str, **more: Any) -> bytes:
    return member(path, SYMLINK, target=target, **more)


PROBES: dict[str, tuple[bytes, bytes]] = {
    # names
    "climbs": (file("workspace/../../outside/new"), file("workspace/new")),
    "climbs at the end": (directory("workspace/a/.."), directory("workspace/a/b")),
    "is absolute": (file("/workspace/new"), file("./workspace/new")),
    "has an empty name": (file("workspace//new"), file("workspace/new")),
    "has a dot": (file("workspace/./new"), file("workspace/.new")),
    "has a NUL": (pax(record(b"path", b"workspace/a\0b")) + header(b"0", 0), file("workspace/a")),
    "has a name too long": (file("workspace/" + "n" * 256), file("workspace/" + "n" * 255)),
    "has a path too long": (directory("workspace/" + "/".join(["n" * 200] * 21)), directory("workspace/" + "n" * 200)),
    "is too deep": (directory("workspace/" + "/".join("d" * 512)), directory("workspace/" + "/".join("d" * 511))),
    "is a file with a slash": (file("workspace/new/"), directory("workspace/new/")),
    "has no place": (file("etc/passwd"), file("workspace/passwd")),
    "is in the place of the root": (file("."), directory(".")),
    "leaves by a place": (symlink("tmp", "../../outside"), directory("tmp")),
    "leaves by a place of the owned root": (
        directory("root") + symlink("root/usr", "../../../outside"),
        directory("root") + directory("root/usr"),
    ),
    # the way
    "goes through a symlink": (
        symlink("workspace/a", "../../../outside") + file("workspace/a/new"),
        directory("workspace/a") + file("workspace/a/new"),
    ),
    "goes through a symlink to a sibling": (
        directory("workspace/b") + symlink("workspace/a", "b") + file("workspace/a/new"),
        directory("workspace/b") + symlink("workspace/a", "b") + file("workspace/b/new"),
    ),
    "goes through a chain of symlinks": (
        symlink("workspace/a", "..") + symlink("workspace/b", "a/..") + file("workspace/b/../outside/new"),
        symlink("workspace/a", "..") + symlink("workspace/b", "a/.."),
    ),
    "goes through a file": (
        file("workspace/a") + file("workspace/a/new"),
        directory("workspace/a") + file("workspace/a/n"),
    ),
    "goes through a FIFO": (member("workspace/a", FIFO) + file("workspace/a/new"), member("workspace/a", FIFO)),
    "writes through a symlink": (
        symlink("workspace/a", "../../../outside/canary") + file("workspace/a", b"overwritten"),
        symlink("workspace/a", "../../../outside/canary", mode=0o777, mtime=1) + file("workspace/b"),
    ),
    "makes a directory of a symlink": (
        symlink("workspace/a", "../../../outside") + directory("workspace/a"),
        symlink("workspace/a", "../../../outside"),
    ),
    # hard links
    "links to the outside": (
        link("workspace/a", "../../outside/canary"),
        file("workspace/b") + link("workspace/a", "workspace/b"),
    ),
    "links to an absolute path": (
        link("workspace/a", "/etc/passwd"),
        file("workspace/b") + link("workspace/a", "./workspace/b"),
    ),
    "links to nothing": (
        link("workspace/a", "workspace/none"),
        file("workspace/none") + link("workspace/a", "workspace/none"),
    ),
    "links to what comes later": (
        link("workspace/a", "workspace/b") + file("workspace/b"),
        file("workspace/b") + link("workspace/a", "workspace/b"),
    ),
    "links to a symlink": (
        symlink("workspace/b", "../../../outside/canary") + link("workspace/a", "workspace/b"),
        symlink("workspace/b", "../../../outside/canary") + file("workspace/c") + link("workspace/a", "workspace/c"),
    ),
    "links through a symlink": (
        symlink("workspace/b", "../../../outside") + link("workspace/a", "workspace/b/canary"),
        directory("workspace/b") + file("workspace/b/canary") + link("workspace/a", "workspace/b/canary"),
    ),
    "links to a directory": (
        link("workspace/a", "workspace"),
        file("workspace/f") + link("workspace/a", "workspace/f"),
    ),
    "links to the root": (link("workspace/a", "."), directory("workspace/a")),
    "links to a FIFO": (member("workspace/b", FIFO) + link("workspace/a", "workspace/b"), member("workspace/b", FIFO)),
    "links to itself": (link("workspace/a", "workspace/a"), file("workspace/a") + link("workspace/b", "workspace/a")),
    "links with content": (
        file("workspace/b") + header(b"1", 512, name=b"workspace/a", linkname=b"workspace/b") + bytes(512),
        file("workspace/b") + header(b"1", 0, name=b"workspace/a", linkname=b"workspace/b"),
    ),
    # types
    "is a whiteout's node": (member("workspace/a", CHARACTER), file("workspace/a")),
    "is a character device": (member("workspace/a", CHARACTER, devmajor=1, devminor=3), file("workspace/a")),
    "is a block device": (member("workspace/a", BLOCK_DEVICE, devmajor=254), file("workspace/a")),
    "is of no type": (header(b"Z", 0), header(b"7", 0)),
    "is an old sparse file": (header(b"S", 0), header(b"0", 0)),
    "is a global header": (header(b"g", 0), header(b"0", 0)),
    "is an empty symlink": (symlink("workspace/a", ""), symlink("workspace/a", "b")),
    "is a symlink too long": (symlink("workspace/a", "x" * 4096), symlink("workspace/a", "x" * 4095)),
    # modes
    "is set-user-id": (file("workspace/a", mode=0o4755), file("workspace/a", mode=0o755)),
    "is set-group-id": (file("workspace/a", mode=0o2755), file("workspace/a", mode=0o755)),
    "is a set-group-id directory": (directory("workspace/a", mode=0o2777), directory("workspace/a", mode=0o1777)),
    # twice
    "is a file twice": (file("workspace/a") + file("workspace/a"), file("workspace/a") + file("workspace/b")),
    "is a directory twice": (directory("workspace/a") * 2, directory("workspace/a") + directory("workspace/b")),
    "is another spelling": (file("workspace/a") + file("./workspace/a"), file("workspace/a") + file("./workspace/b")),
    "is a file, then a directory": (file("workspace/a") + directory("workspace/a"), file("workspace/a")),
    "is a directory, then a file": (directory("workspace/a") + file("workspace/a"), directory("workspace/a")),
    "is a file, then a symlink": (file("workspace/a") + symlink("workspace/a", "b"), file("workspace/a")),
    "is a file, then a FIFO": (file("workspace/a") + member("workspace/a", FIFO), file("workspace/a")),
    "is spoken of, then twice": (
        file("workspace/a/b") + directory("workspace/a") + directory("workspace/a"),
        file("workspace/a/b") + directory("workspace/a"),
    ),
    # extended attributes
    **{
        f"has {name}": (file("workspace/a", pax={XATTR + name: "y"}), file("workspace/a", pax={XATTR + "user.a": "y"}))
        for name in (
            "user.overlay.opaque",
            "user.overlay.whiteout",
            "user.overlay.redirect",
            "user.overlay.metacopy",
            "trusted.overlay.opaque",
            "trusted.a",
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
            "user.",
            "user." + "n" * 300,
            "",
        )
    },
    "is an opaque directory by attribute": (
        directory("workspace/a", pax={XATTR + "user.overlay.opaque": "y"}),
        directory("workspace/a", pax={XATTR + "user.opaque": "y"}),
    ),
    "is a symlink with attributes": (
        symlink("workspace/a", "b", pax={XATTR + "user.a": "1"}),
        symlink("workspace/a", "b"),
    ),
    # headers
    "has a wrong checksum": (header(b"0", 0).replace(b"it\0", b"is\0"), header(b"0", 0)),
    "has a size that is none": (header(b"0", field=b"00zz0000000\0"), header(b"0", field=b"00000000000\0")),
    "has a negative size": (header(b"0", field=b"\xff" * 12), header(b"0", field=b"\x80" + bytes(11))),
    "has a size beyond all": (header(b"0", field=b"\xbf" + b"\xff" * 11), header(b"0", field=b"\x80" + bytes(11))),
    "has content and is a directory": (
        header(b"5", 512, name=b"workspace/d") + bytes(512),
        header(b"5", 0, name=b"workspace/d"),
    ),
    "has a pax size that is none": (
        pax(record(b"size", b"-1")) + header(b"0", 0),
        pax(record(b"size", b"0")) + header(b"0", 0),
    ),
    "has an id that cannot be": (
        pax(record(b"uid", b"4294967295")) + header(b"0", 0),
        pax(record(b"uid", b"0")) + header(b"0", 0),
    ),
    "has a time that is none": (
        pax(record(b"mtime", b"nan")) + header(b"0", 0),
        pax(record(b"mtime", b"99999999999999.5")) + header(b"0", 0),
    ),
    "has a record with a wrong length": (
        pax(b"99 path=x\n") + header(b"0", 0),
        pax(record(b"comment", b"x")) + header(b"0", 0),
    ),
    "has a record with no length": (pax(b"path=x\n") + header(b"0", 0), pax(b"") + header(b"0", 0)),
    "has a record that ends early": (pax(b"5 a=b") + header(b"0", 0), pax(b"6 a=b\n") + header(b"0", 0)),
    "has a record twice": (
        pax(record(b"path", b"workspace/a") + record(b"path", b"workspace/b")) + header(b"0", 0),
        pax(record(b"path", b"workspace/a")) + header(b"0", 0),
    ),
    "has two pax headers": (
        pax(record(b"path", b"workspace/a")) + pax(record(b"comment", b"b")) + header(b"0", 0),
        pax(record(b"path", b"workspace/a") + record(b"comment", b"b")) + header(b"0", 0),
    ),
    "has two long names": (
        pax(record(b"path", b"workspace/a")) + header(b"L", 12) + b"workspace/b\0".ljust(512, b"\0") + header(b"0", 0),
        header(b"L", 12) + b"workspace/b\0".ljust(512, b"\0") + header(b"0", 0),
    ),
    "is a header of nothing": (pax(record(b"path", b"workspace/a")), b""),
    # whiteouts
    **{
        f"is a whiteout called {name}": (file(f"workspace/{name}", b""), file("workspace/.wh.a", b""))
        for name in (".wh.", ".wh..", ".wh...", ".wh..wh.plnk", ".wh..wh..opq.")
    },
    "is a whiteout with content": (file("workspace/.wh.a", b"x"), file("workspace/.wh.a", b"")),
    "is a whiteout and a directory": (directory("workspace/.wh.a"), directory("workspace/a")),
    "is a whiteout and a symlink": (symlink("workspace/.wh.a", "b"), symlink("workspace/a", "b")),
    "lies beneath a whiteout": (file("workspace/.wh.a/b", b""), file("workspace/a/.wh.b", b"")),
    "hides a place": (file(".wh.workspace", b""), file("workspace/.wh.workspace", b"")),
    "hides all": (file(".wh..wh..opq", b""), file("workspace/.wh..wh..opq", b"")),
}


#: The same over a layer that has `workspace/below`.
UPPER_PROBES: dict[str, tuple[bytes, bytes]] = {
    "is removed and added": (
        file("workspace/a") + file("workspace/.wh.a", b""),
        file("workspace/a") + file("workspace/.wh.b", b""),
    ),
    "is added and removed": (
        file("workspace/.wh.a", b"") + file("workspace/a"),
        file("workspace/.wh.b", b"") + file("workspace/a"),
    ),
    "is removed twice": (file("workspace/.wh.a", b"") * 2, file("workspace/.wh.a", b"") + file("workspace/.wh.b", b"")),
    "is opaque twice": (file("workspace/.wh..wh..opq", b"") * 2, file("workspace/.wh..wh..opq", b"")),
    "goes through a whiteout": (file("workspace/.wh.a", b"") + file("workspace/a/b"), file("workspace/.wh.a", b"")),
    "links to a whiteout": (
        file("workspace/.wh.a", b"") + link("workspace/b", "workspace/a"),
        file("workspace/.wh.a", b""),
    ),
    "links into the layer below": (link("workspace/b", "workspace/below"), file("workspace/b")),
}


def sparse(size: int, text: bytes, data: bytes = b"") -> bytes:
    """Return a sparse file in the form pax 1.0 with this map."""
    records = {b"major": b"1", b"minor": b"0", b"name": b"workspace/s", b"realsize": b"%d" % size}
    content = text + bytes(-len(text) % 512) + data
    extended = b"".join(record(b"GNU.sparse." + key, value) for key, value in records.items())
    return pax(extended) + header(b"0", len(content)) + content + bytes(-len(content) % 512)


HONEST_SPARSE = sparse(2048, b"2\n0\n512\n1024\n512\n", b"a" * 512 + b"b" * 512)
SPARSE_PROBES = {
    "a terabyte": sparse(1 << 40, b"0\n"),
    "backwards": sparse(2048, b"2\n1024\n512\n0\n512\n", bytes(1024)),
    "overlapping": sparse(2048, b"2\n0\n512\n256\n512\n", bytes(1024)),
    "beyond its size": sparse(100, b"1\n0\n512\n", bytes(512)),
    "more than there is": sparse(2048, b"1\n0\n1024\n", bytes(512)),
    "less than there is": sparse(2048, b"1\n0\n256\n", bytes(512)),
    "no number": sparse(2048, b"x\n"),
    "no end": sparse(2048, b"9\n1\n"),
    "a billion stretches": sparse(2048, b"1000000000\n" + b"0\n0\n" * 500_000),
    "an old format": pax(record(b"GNU.sparse.major", b"0") + record(b"GNU.sparse.minor", b"1")) + header(b"0", 0),
    "a name that climbs": sparse(0, b"0\n").replace(b"workspace/s", b"../outside/"),
}
