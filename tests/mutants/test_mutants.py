"""The tool for mutants: what it leaves out, how it samples, and that each file has its tests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from mutant_owners import OWNERS, SOURCES, owners_of
from mutant_population import Mutant, in_order, unread_spans
from mutant_report import diff, equivalents, report, wilson
from mutant_trial import InOrder

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")


def test_every_mutated_file_has_test_files_of_its_own_and_they_are_there():
    for source in SOURCES:
        assert len(owners_of(source)) >= 2, source
        for test in owners_of(source):
            assert (ROOT / test).is_file(), test


def test_no_owner_is_named_for_a_file_that_is_gone():
    assert {f"l0func/{name}.py" for name in OWNERS} == set(SOURCES)


def test_annotations_docstrings_and_lists_of_names_are_left_out_and_nothing_else():
    text = (
        "from __future__ import annotations\n"
        "__all__ = ['x']\n"
        "def f(a: int | str = 1 | 2, *b: A | B) -> int | None:\n"
        '    """Text."""\n'
        "    c: int | str = 3 | 4\n"
        "    return c | a\n"
    )
    lines = text.splitlines()
    kept = "".join(
        [
            character
            for row, line in enumerate(lines)
            for column, character in enumerate(line)
            if not is_left_out((row + 1, column), text)
        ]
    )
    assert kept == "def f(a:  = 1 | 2, *b: ) -> :        c:  = 3 | 4    return c | a"


def is_left_out(place, text):
    return any(start <= place < end for start, end in unread_spans(text))


@pytest.mark.parametrize("size", [10, 55, 110])
def test_every_beginning_of_the_order_holds_each_file_in_its_proportion(size):
    files = [
        [Mutant(f"file{n}", line, "operator", 0, "") for line in range(n * 10)]
        for n in range(1, 11)
    ]
    order = in_order(files, seed=3)
    assert sorted(order) == sorted([mutant for mutants in files for mutant in mutants])
    assert order == in_order(files[::-1], seed=3)
    assert order != in_order(files, seed=4)
    found = Counter([mutant.source for mutant in order[:size]])
    for n in range(1, 11):
        assert abs(found[f"file{n}"] - size * n / 55) <= 1


def test_a_sample_of_a_file_is_not_its_beginning():
    order = in_order([[Mutant("file", line, "operator", 0, "") for line in range(100)]], seed=0)
    assert max([mutant.line for mutant in order[:10]]) > 50


def test_the_tests_of_a_line_come_first_and_a_run_ends_long_before_its_limit(tmp_path):
    ranks = {"other": (True, 1.0), "slow": (False, 20.0), "quick": (False, 2.0)}
    ranks |= {"other slow": (True, 8.0), "last": (True, 9.0)}
    items = [SimpleNamespace(nodeid=name) for name in ranks]
    InOrder(ranks.__getitem__, tmp_path / "killer").pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["quick", "slow", "other"]


def test_the_interval_is_the_published_one():
    # 81 of 263: an example of Wilson's interval by Newcombe (1998), Statistics in Medicine 17.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0


def test_a_diff_is_the_changed_lines_alone():
    assert diff("a\nb\nc\n", "a\nB\nc\n") == "-b\n+B"


def record(outcome, text="-a\n+b"):
    return {
        "source": "l0func/random.py",
        "line": 3,
        "operator": "AddNot",
        "diff": text,
        "outcome": outcome,
    }


def test_the_report_counts_time_outs_as_killed_and_leaves_equivalents_out():
    records = [record("killed")] * 7 + [record("timed out"), record("survived", "-c\n+d")]
    text = report([*records, record("survived")], {("l0func/random.py", "-a\n+b"): "no reason"})
    assert "10 mutants ran: 7 were killed, 1 more by the time limit, 2 survived" in text
    assert "Killed of those not equivalent: 8 of 9, 88.9%" in text
    assert "random.py:3 AddNot\n-c\n+d" in text
    assert "-a\n+b" not in text


def test_every_equivalent_mutant_has_a_reason_and_changes_a_line_that_is_there():
    for (source, change), reason in equivalents(EQUIVALENT).items():
        assert len(reason.split()) >= 4, change
        lines = set((ROOT / source).read_text().splitlines())
        removed = [line[1:] for line in change.splitlines() if line.startswith("-")]
        assert set(removed) <= lines, change


def test_equivalent_mutants_are_listed_once():
    entries = [(entry["source"], entry["diff"]) for entry in json.loads(EQUIVALENT.read_text())]
    assert len(set(entries)) == len(entries)
