"""The reproductions go on where they stopped; their numbers are those of the pruned weights."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

import l0func as l0
from l0func.internal import tree

FOLDER = Path(__file__).parent.parent / "examples" / "reproduce"


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("runs")


def small(runs, chunk_size=None):
    hidden = l0.group(
        {"2.weight": l0.axis(1)}, owns={"0.weight": l0.axis(0), "0.bias": l0.axis(0)}
    )
    layers = {
        "pixels": runs.Layer(l0.group({"0.weight": l0.axis(1)}), 0.2, 5),
        "hidden": runs.Layer(hidden, 0.5, 3),
    }
    network = runs.Network(
        "small",
        lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
        layers,
        (8,),
        chunk_size,
    )
    x, y = l0.random.normal(l0.random.key(7), (60, 8)), torch.arange(60) % 3
    row = runs.Row(
        "target", target=0.5, gates_lr=0.1, anneal=True, epochs=4, seeds=3, batch=20, warmup=3
    )
    return runs.Run(network, row, (x, y, x, y))


class Stopped(Exception):
    pass


@pytest.mark.compiles
@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_states(runs, tmp_path, monkeypatch):
    whole, _ = small(runs).trained(tmp_path / "whole")
    interrupted, epoch = small(runs), runs.Run.epoch

    def until(self, states, number):
        if number == 2:
            raise Stopped
        return epoch(self, states, number)

    monkeypatch.setattr(runs.Run, "epoch", until)
    with pytest.raises(Stopped):
        interrupted.trained(tmp_path / "parts")
    monkeypatch.setattr(runs.Run, "epoch", epoch)
    again = small(runs)
    resumed, _ = again.trained(tmp_path / "parts")
    torch.testing.assert_close(tree.leaves(resumed), tree.leaves(whole), rtol=0, atol=0)
    lines = [
        json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert_numbers_are_those_of_the_pruned_weights(runs, again, resumed)


def assert_numbers_are_those_of_the_pruned_weights(runs, run, states):
    record = runs.result(run, states, 1.0)
    for name in runs.ESTIMATORS:
        for member, found in zip(l0.unstack(states), record["seeds"][name], strict=True):
            params, gates = member.averages["params"], member.averages["gates"]
            masks = l0.deterministic_masks(gates, run.spec, name)
            first = (masks["0.weight"] != 0) & (masks["2.weight"] != 0).reshape(5, 1)
            entries = int(first.sum()) + int((masks["2.weight"] != 0).sum()) * 3
            assert found["realised"] == pytest.approx(entries / 55)
            assert found["widths"] == [
                int((masks["0.weight"] != 0).sum()),
                int((masks["2.weight"] != 0).sum()),
            ]
            weights = {path: params[path] * masks.get(path, 1.0) for path in params}
            hidden = torch.relu(run.data[2] @ weights["0.weight"].T + weights["0.bias"])
            guess = (hidden @ weights["2.weight"].T + weights["2.bias"]).argmax(1)
            assert found["error"] == pytest.approx(float((guess != run.data[3]).float().mean()))


def test_an_interval_is_students(runs):
    # By the table: t of two degrees of freedom at 97.5 % is 4.3027.
    assert runs.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)
    assert runs.interval([0.5]) == (0.5, 0.0)


def test_the_readmes_tables_are_the_recorded_results(runs):
    tables = (FOLDER.parent / "README.md").read_text()
    records = [
        json.loads(file.read_text()) for file in sorted((FOLDER / "runs").rglob("result.json"))
    ]
    assert len(records) >= 4
    for record in records:
        assert f"| {runs.line(record, 'louizos')} |" in tables, runs.show(record)
        log = (
            (FOLDER / "runs" / record["network"] / record["row"]["name"] / "log.jsonl")
            .read_text()
            .splitlines()
        )
        assert len(log) == record["row"]["epochs"]
        assert json.loads(log[-1])["error"] == [
            seed["error"] for seed in record["seeds"]["louizos"]
        ]


@pytest.mark.parametrize("script", ["lenet_300_100", "lenet5"])
def test_recorded_results_are_of_the_rows_of_their_script(runs, script):
    module = importlib.import_module(script)
    rows = {row.name: json.loads(json.dumps(asdict(row))) for row in module.ROWS}
    recorded = [
        json.loads(file.read_text())
        for file in (FOLDER / "runs" / module.NETWORK.name).rglob("result.json")
    ]
    assert recorded
    for record in recorded:
        assert record["row"] == rows[record["row"]["name"]]
