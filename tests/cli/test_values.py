"""Texts as values: sizes, times, variables, mounts."""

import os
from pathlib import Path

import pytest

from alcove.cli import values
from alcove.contract import FilesystemAccess, FilesystemMount


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [("512M", 512), ("2G", 2048), ("1.5g", 1536), ("64MiB", 64), ("64MB", 64), ("1T", 1 << 20), ("2048K", 2)],
)
def test_memory(text: str, mebibytes: int) -> None:
    assert values.mebibytes(text) == mebibytes


@pytest.mark.parametrize("text", ["", "512", "M", "-1M", "1.5.5G", "512m!", "1 G", "0M", "100K", "1.3M", "٣M", "1e3M"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match=r"whole|unit"):
        values.mebibytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), (".5", 0.5), ("1d", 86400)],
)
def test_times(text: str, seconds: float) -> None:
    assert values.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1e3", "inf", "nan", "1 s", "1w", "1s2"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        values.seconds(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "x", "٣", "+1", "1_0"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        values.count(text)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a=b")
    monkeypatch.delenv("NOT_MINE", raising=False)
    assert values.variable("A=1=2") == ("A", "1=2")
    assert values.variable("A=") == ("A", "")
    assert values.variable("MINE") == ("MINE", "a=b")
    with pytest.raises(ValueError, match="not set"):
        values.variable("NOT_MINE")
    for text in ("", "=x", "1A=x", "A-B=x"):
        with pytest.raises(ValueError, match="write it as"):
            values.variable(text)


@pytest.mark.parametrize(
    ("text", "source", "target", "access"),
    [
        ("/a:/b", "/a", "/b", "read_only"),
        ("/a:/b:ro", "/a", "/b", "read_only"),
        ("/a:/b:rw", "/a", "/b", "read_write"),
        (":/b:rw", "", "/b", "read_write"),
        ("/a:b:/c", "/a:b", "/c", "read_only"),
        ("/a:/ro", "/a", "/ro", "read_only"),
        ("/a/../x/:/b", "/x", "/b", "read_only"),
    ],
)
def test_mounts(text: str, source: str, target: str, access: str) -> None:
    assert values.mount(text) == FilesystemMount(source, target, FilesystemAccess(access))


def test_a_relative_source_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert values.mount("data:/b").source == f"{tmp_path}/data"
    assert values.mount(".:/b").source == os.getcwd()
    assert values.mount("~/data:/b").source == "/home/me/data"


def test_a_mount_by_copy_on_write() -> None:
    assert values.mount("/a:/b:cow") == FilesystemMount("/a", "/b", copy_on_write=True)
    assert values.mount("/cow:/b") == FilesystemMount("/cow", "/b")


@pytest.mark.parametrize("text", ["", "/a", "/a:b", "a:b:ro", "/a:/b:rx", ":", "/a:", ":ro", "/a:/b:RW"])
def test_what_is_no_mount(text: str) -> None:
    with pytest.raises(ValueError, match=r"for example \./data:/workspace/data:ro"):
        values.mount(text)


@pytest.mark.parametrize("text", ["", "=b", "a"])
def test_what_is_no_label(text: str) -> None:
    assert values.label("a=b=c") == ("a", "b=c")
    with pytest.raises(ValueError, match="KEY=VALUE"):
        values.label(text)
