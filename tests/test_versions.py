"""The script that runs the suite on other versions: its plan, and the table that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from versions import (
    MODELS,
    PAGE,
    PLAN,
    Broken,
    Row,
    chosen,
    counts,
    interpreter,
    read_rows,
    rows_with,
    table,
    write,
)

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
NUMBERS = {"passed": 2384, "failed": 1, "skipped": 107}


def row(torch: str, **changes: int) -> Row:
    versions = {"torch": torch, "python": "3.10.13", "numpy": "1.26.4", "numba": "none"}
    return Row(**{**versions, **NUMBERS, "commit": "57b6f31", "date": "2026-11-27", **changes})


def test_the_plan_runs_every_python_and_the_floor_and_the_pinned_torch():
    floor = re.search(r'"torch>=([\d.]+)"', PROJECT).group(1)
    pinned = re.search(r'"torch==([\d.]+)"', PROJECT).group(1)
    torches = [pair.torch for pair in PLAN]
    assert torches[0].startswith(f"{floor}.")
    assert pinned in torches
    assert len(set(torches)) == len(torches) <= 8
    assert {pair.python for pair in PLAN} == {"3.10", "3.11", "3.12", "3.13"}
    assert f'requires-python = ">={min(pair.python for pair in PLAN)}"' in PROJECT


@pytest.mark.parametrize("name", [name for name in MODELS.split() if "==" in name])
def test_the_plan_pins_what_the_project_pins(name):
    assert f'"{name}"' in PROJECT


def test_the_page_names_every_torch_of_the_plan():
    page = (ROOT / PAGE).read_text()
    assert [pair.torch for pair in PLAN if f" {pair.torch}" not in page] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1 failed, 2384 passed, 107 skipped in 61.20s (0:01:01)", (2384, 1, 107)),
        ("=== 3 passed, 1 skipped, 2 warnings, 4 errors in 0.1s ===", (3, 4, 1)),
        ("\x1b[32m\x1b[1m5 passed\x1b[0m, \x1b[33m2 xfailed\x1b[0m in 0.1s", (5, 0, 2)),
        ("1 passed, 1 xpassed in 4000.00s (1:06:40)", (1, 1, 0)),
    ],
)
def test_the_counts_are_those_of_pytests_closing_line(line, found):
    assert tuple(counts(f"...s..F\n12 passed in 1.0s\n{line}\n").values()) == found


@pytest.mark.parametrize("output", ["", "3 passed in 0.1s\nKilled", "no tests ran in 0.01s"])
def test_a_run_without_a_closing_line_gives_no_row(output):
    with pytest.raises(Broken, match="did not end with its counts"):
        counts(output)


def test_only_takes_a_version_or_its_beginning_but_no_part_of_a_number():
    assert [pair.torch for pair in chosen(["2.1", "2.13.0"])] == ["2.1.2", "2.13.0"]
    assert chosen([]) == list(PLAN)
    with pytest.raises(Broken, match=r"--only takes one of 2\.1\.2, "):
        chosen(["2.4", "3"])


def test_an_interpreter_that_is_not_on_the_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Broken, match=r"python3\.12 is not on PATH"):
        interpreter("3.12")
    launcher = tmp_path / "python3.12"
    launcher.write_text("#!/bin/sh\nexit 127\n")
    launcher.chmod(0o755)
    with pytest.raises(Broken, match=r"python3\.12 is not on PATH"):
        interpreter("3.12")


def test_a_later_run_takes_the_place_of_an_earlier_one_and_the_rest_stays(tmp_path):
    (tmp_path / PAGE).parent.mkdir()
    (tmp_path / PAGE).write_text(f"# Systems\n\n{table([])}")
    assert read_rows(tmp_path) == []
    for new in (row("2.13.0"), row("2.4.1"), row("2.13.0", failed=0)):
        write(rows_with(new, read_rows(tmp_path)), tmp_path)
    rows = [row("2.4.1"), row("2.13.0", failed=0)]
    assert read_rows(tmp_path) == rows
    assert (tmp_path / PAGE).read_text() == f"# Systems\n\n{table(rows)}"


def test_the_page_shows_the_record():
    assert (ROOT / PAGE).read_text().endswith(f"\n\n{table(read_rows(ROOT))}")
