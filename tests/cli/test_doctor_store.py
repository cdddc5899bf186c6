"""`alcove doctor --store`."""

from pathlib import Path

import pytest

from tests.cli.cli import Cli

pytestmark = pytest.mark.user


def test_nothing_found(alcove: Cli) -> None:
    assert alcove.out("doctor", "--store") == f"{alcove.store}: nothing found\n"
    assert alcove.json("doctor", "--store") == {
        "store": str(alcove.store),
        "ok": True,
        "repaired": False,
        "damages": [],
    }


def test_found_then_repaired_then_clean(alcove: Cli) -> None:
    (alcove.store / "disks" / "64.ext4.0123").write_text("half made")
    found = alcove("doctor", "--store")
    assert found.returncode == 1
    assert b"alcove doctor --store --repair" in found.stdout
    repaired = alcove("doctor", "--store", "--repair", "--verify")
    assert repaired.returncode == 1
    assert repaired.stdout.splitlines()[1].endswith(b"removed")
    assert alcove.out("doctor", "--store") == f"{alcove.store}: nothing found\n"


def test_where_there_is_no_store_none_is_made(alcove: Cli) -> None:
    for words in ([], ["--repair"]):
        refused = alcove.refusal("doctor", "--store", *words, ALCOVE_HOME=f"{alcove.store}-mistyped")
        assert refused.startswith(f"there is no store at {alcove.store}-mistyped")
    assert not Path(f"{alcove.store}-mistyped").exists()


def test_what_a_check_did_change_is_said(alcove: Cli) -> None:
    (alcove.store / "disks" / "64.ext4.0123").write_text("half made")
    alcove.store.chmod(0o755)
    said = alcove("doctor", "--store").stdout
    assert b"mode 0700" in said
    assert b"Nothing else was changed." in said
    assert b"Nothing was changed." in alcove("doctor", "--store").stdout
    alcove("doctor", "--store", "--repair")


def test_repairing_is_of_the_store(alcove: Cli) -> None:
    done = alcove("doctor", "--repair")
    assert done.returncode != 0
    assert b"alcove doctor --store" in done.stderr
