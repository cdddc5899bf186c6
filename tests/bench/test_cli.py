import io
import json
import os
import sys
from pathlib import Path

import pytest

from bench import chart, cli, plain_user, table
from bench.cases import CASES
from bench.cases.program import command_line
from bench.document import Document, decode
from bench.progress import ProgressLine
from bench.targets import BARE, TARGETS
from tests.bench.examples import case_row, document

GOOD = case_row("live", "time", {"alcove": [1.2] * 3, BARE: [1.0] * 3})
BAD = case_row("live", "time", {"alcove": [1.4] * 3, BARE: [1.0] * 3})


def test_cases_are_chosen_by_name_and_pattern_in_their_own_order() -> None:
    assert [case.id for case in cli.choose(["new,live"], quick=True)] == ["live", "new"]
    assert [case.id for case in cli.choose(["memory-*"], quick=False)] == ["memory-1", "memory-100"]
    assert cli.choose([], quick=False) == list(CASES)


def test_a_quick_run_leaves_the_long_ones_out_unless_named() -> None:
    assert "output-1g" not in [case.id for case in cli.choose([], quick=True)]
    assert [case.id for case in cli.choose(["output-1g"], quick=True)] == ["output-1g"]


def test_an_unknown_case_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--only", "lice"]) == 2
    said = capsys.readouterr().err
    assert "no case is named lice" in said
    assert "live" in said


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["--rounds", "0"])


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(case.id in said for case in CASES)
    assert all(target.sentence() in said for target in TARGETS)
    assert "bubblewrap" in said


@pytest.mark.parametrize(
    ("made", "plain", "checked"),
    [
        (document([GOOD]), 0, 0),
        (document([BAD]), 0, 1),
        (document([GOOD], left_behind=["process 7"]), 1, 1),
        (document([case_row("live", "time", {BARE: [1.0]}, failures={"alcove": "x"})]), 1, 1),
        (document([case_row("live", "time", {"alcove": [1.0]}, failures={BARE: "x"})]), 1, 1),
        (document([case_row("live", "time", {BARE: [1.0], "alcove": [1.0]}, failures={"runc exec": "x"})]), 0, 0),
    ],
)
def test_the_exit_code(made: Document, plain: int, checked: int) -> None:
    assert cli.status(made, check=False) == plain
    assert cli.status(made, check=True) == checked


def test_a_report_keeps_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = cli.parser().parse_args(["--json", "--out", str(tmp_path / "deep" / "er")])
    cli.report(document([GOOD]), options)
    assert decode((tmp_path / "deep" / "er" / "root.json").read_bytes()) == document([GOOD])
    assert json.loads(capsys.readouterr().out)["cases"][0]["id"] == "live"


def test_without_matplotlib_the_report_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    cli.report(document([GOOD]), cli.parser().parse_args(["--out", str(tmp_path)]))
    assert chart.INSTALL in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["root.json"]


def test_a_chart_without_matplotlib_is_an_import_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError):
        chart.draw(document([GOOD]), tmp_path / "x")


def test_tables_show_ratios_verdicts_and_absences() -> None:
    dropped = case_row("new", "time", {"alcove": [4.0], "bubblewrap": [5.0]}, failures={"runc": "it broke"})
    made = document([BAD, dropped], absent=["sandlock"], left_behind=["mount /x"])
    text = "\n".join(line for one in table.tables(made) for line in table.plain(one))
    assert "× subprocess.run" in text
    assert "1.40" in text
    assert "miss" in text
    assert "peer absent" in text
    assert "runc dropped out: it broke" in text
    assert "left behind: mount /x" in text
    assert "isolation: userns,mountns" in text


def test_both_ways_of_showing_tables_hold_the_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table.show(document([GOOD]))
    assert "[ms]" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.table", None)
    table.show(document([GOOD]))
    assert "[ms]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.5234, "0.523"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (0.0, "0.000"),
        (-2.0, "-2.00"),
    ],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert table.figure(value) == text


def test_progress_is_one_line_a_case_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.case("live", 1, 2)
    for done in range(4):
        line.rounds(done, 3)
    assert stream.getvalue().startswith("[1/2] live: 3 rounds in ")
    assert stream.getvalue().count("\n") == 1


def test_the_environment_of_a_plain_user_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    who = plain_user.Account("someone", 1001, 1001, (1001,))
    environ = plain_user.environment(who, Path("/h"), Path("/tree"))
    assert "SECRET" not in environ
    assert environ["ALCOVE_HOME"] == "/h/alcove"
    assert environ["HOME"] == "/h"
    assert environ["PYTHONPATH"] == "/tree:/h/packages"


def test_a_distribution_is_carried_whole(tmp_path: Path) -> None:
    plain_user.carry("msgspec", tmp_path)
    plain_user.carry("no-such-distribution", tmp_path)
    assert (tmp_path / "msgspec" / "__init__.py").exists()
    assert len(list(tmp_path.glob("msgspec-*.dist-info"))) == 1
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["msgspec", "msgspec"]


def test_users_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(plain_user.UserError, match="needs root"):
        plain_user.account("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(plain_user.UserError, match="no user is named no-such-user"):
        plain_user.account("no-such-user")
    with pytest.raises(plain_user.UserError, match="is root"):
        plain_user.account("root")


def test_a_missing_program_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    program = tmp_path / "alcove"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert command_line() == [str(program)]
