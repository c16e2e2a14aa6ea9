"""Examples of another kind than the module's tensors; slow work; modules in training mode."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

import l0func as l0
from l0func.internal import waiting


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 3), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 2))
    return nn.Sequential(*layers).to(dtype)


def counted(module: nn.Module, x: Tensor) -> None:
    l0.count_macs(*l0.make_functional(module), x)


TYPES = [
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.float32),
]


@pytest.mark.parametrize(("own", "given"), TYPES)
@pytest.mark.parametrize("call", [l0.unit_groups, counted])
def test_examples_of_another_type_are_named_with_the_modules_own(own, given, call):
    words = rf"inputs\[0\] is {given}, and the module's '0.weight' is {own}.*to\({own}\)"
    with pytest.raises(ValueError, match=words):
        call(net(own), torch.randn(2, 4).to(given))


def test_a_forward_that_converts_its_inputs_takes_any_type():
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float())

    assert l0.unit_groups(Converting(), torch.randn(2, 4).double()).sizes == {"net.0": 3}


def test_examples_on_another_device_are_named():
    with pytest.raises(ValueError, match=r"inputs\[0\] is on meta, and the module's '0.weight'"):
        l0.unit_groups(net(), torch.empty(2, 4, device="meta"))


def test_keyword_examples_on_another_device_are_named():
    with pytest.raises(ValueError, match="The example input is on meta"):
        l0.unit_groups(nn.Linear(4, 3), input=torch.empty(2, 4, device="meta"))


def test_compact_names_examples_of_another_type():
    fn, params, buffers = l0.make_functional(net().eval())
    spec = l0.gate_spec(params, groups=l0.unit_groups(net(), torch.randn(2, 4)))
    gates = {"0": torch.tensor([9.0, -9.0, 9.0])}
    with pytest.raises(ValueError, match=r"is torch.float64, and the module's '0.weight'"):
        l0.compact(fn, params, gates, buffers, spec, example_inputs=torch.randn(2, 4).double())


def test_a_module_in_training_mode_gives_the_same_groups_and_stays_so():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), *net())
    before = {path: t.clone() for path, t in module.state_dict().items()}
    x = torch.randn(3, 4)
    found = l0.unit_groups(module.train(), x)
    assert module.training
    assert found == l0.unit_groups(module.eval(), x)
    assert all(torch.equal(before[path], t) for path, t in module.state_dict().items())


class Slow(nn.Module):
    """A layer that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.05)
        return self.net(x)


def test_slow_work_says_so_once_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)
    l0.unit_groups(Slow(), torch.randn(2, 4))
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "l0func.unit_groups: Slow has 23 parameters" in err


def test_fast_work_says_nothing(capsys):
    l0.unit_groups(net(), torch.randn(2, 4))
    assert capsys.readouterr() == ("", "")
