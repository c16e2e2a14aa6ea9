"""Pictures show the numbers that they are given."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import l0func as l0

pytest.importorskip("matplotlib")


@pytest.fixture
def trained():
    _, params, _ = l0.make_functional(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    spec = l0.gate_spec(params, {"*.weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec, noise=4.0)
    return params, gates, spec


def widths_of(bars) -> list[float]:
    return [bar.get_width() for bar in bars]


def test_density_draws_expected_beside_realised(trained):
    params, gates, spec = trained
    summary = l0.summary(params, gates, spec)
    ax = l0.plot.density(summary)
    expected, realised = (widths_of(bars) for bars in ax.containers)
    rows = [summary["0.weight"], summary["2.weight"]]
    assert expected == pytest.approx([100 * row.expected_density for row in rows])
    assert realised == pytest.approx([100 * row.realised_density for row in rows])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.weight", "2.weight"]
    assert len(l0.plot.density(summary, names=["2.weight"]).containers[0]) == 1


def test_the_histogram_counts_every_gate_and_names_the_undecided(trained):
    _, gates, spec = trained
    ax = l0.plot.open_probability(gates, spec, bins=10)
    p = torch.cat([l0.HardConcrete().prob_nonzero(g).flatten() for g in gates.values()])
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == torch.histc(p, 10, 0, 1).tolist()
    undecided = float(((p > 0.05) & (p < 0.95)).double().mean())
    assert ax.get_title() == f"{undecided:.0%} of 36 gates undecided"


def test_trajectories_have_a_line_for_every_gate():
    history = [torch.tensor([0.5, 0.6, 0.2]), torch.tensor([0.9, 0.4, 0.1])]
    ax = l0.plot.trajectories([0, 10], history)
    lines = sorted(tuple(line.get_ydata()) for line in ax.get_lines())
    torch.testing.assert_close(
        torch.tensor(lines).float(), torch.tensor([(0.2, 0.1), (0.5, 0.9), (0.6, 0.4)])
    )


def test_closed_filters_stay_blank():
    weight = torch.randn(5, 3, 2, 2)
    weight[[1, 4]] = 0
    ax = l0.plot.filters(weight)
    image = ax.get_images()[0].get_array()
    assert int((~torch.as_tensor(image.filled(float("nan"))).isnan()).sum()) == 3 * 4
    assert ax.get_title() == "3 of 5 filters survive"
    assert len(ax.patches) == 5


def test_widths_and_tradeoff_draw_what_they_are_given():
    ax = l0.plot.widths({"a": 20, "b": 50}, {"a": 9, "b": 18})
    assert [widths_of(bars) for bars in ax.containers] == [[20, 50], [9, 18]]
    assert [text.get_text() for text in ax.texts] == [" 9 of 20", " 18 of 50"]
    ax = l0.plot.tradeoff({"one": [(0.25, 90.0), (0.1, 80.0)]})
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [10, 20]
    assert {"10", "20"} <= {label.get_text() for label in ax.get_xticklabels()}
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    ax = l0.plot.tradeoff({"one": [(0.5, 90.0), (0.1, 80.0)], "two": [(1.0, 99.0)]})
    assert [list(line.get_xdata()) for line in ax.get_lines()] == [[10.0, 50.0], [100.0]]
    assert ax.get_xscale() == "log"


def test_a_picture_goes_where_it_is_told(trained, tmp_path):
    from matplotlib.figure import Figure

    params, gates, spec = trained
    axes = Figure().subplots(2)
    assert l0.plot.density(l0.summary(params, gates, spec), axes[0]) is axes[0]
    assert l0.plot.open_probability(gates, spec, axes[1]) is axes[1]
    axes[0].figure.savefig(tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused(trained, monkeypatch):
    params, gates, spec = trained
    plain = l0.gate_spec(params, {"0.weight": l0.element()})
    with pytest.raises(ValueError, match="no density to draw"):
        l0.plot.density(l0.summary(params, {}, l0.gate_spec(params, {"*": None})))
    with pytest.raises(KeyError, match="nowhere"):
        l0.plot.density(l0.summary(params, gates, spec), names=["nowhere"])
    with pytest.raises(
        ValueError, match=r"'2.weight' is in the gates given and not in.*Gates go with the spec"
    ):
        l0.plot.open_probability(gates, plain)
    with pytest.raises(ValueError, match="got 1 steps and 2 values"):
        l0.plot.trajectories([0], [torch.ones(2)] * 2)
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        l0.plot.filters(torch.ones(2, 3))
    with pytest.raises(ValueError, match="of the same layers"):
        l0.plot.widths({"a": 1}, {"b": 1})
    with pytest.raises(ValueError, match="run 'one' has 50"):
        l0.plot.tradeoff({"one": [(50, 90.0)]})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'l0func\[plot\]'"):
        l0.plot.widths({"a": 1}, {"a": 1})
