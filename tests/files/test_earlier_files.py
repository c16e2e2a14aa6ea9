"""Files that an earlier version wrote load with the numbers that were saved, and a warning.

The files in ``tests/files/data`` stay as they are. A later format still has to read them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import l0func as l0
from l0func.internal import tree

DATA = Path(__file__).parent / "data"


def loaded_with_a_warning(load, name, *args):
    """The file's contents, under the warning for files without digests."""
    with pytest.warns(UserWarning, match=rf"{name} has no digests.*Save it again") as caught:
        contents = load(DATA / name, *args)
    assert [warning.filename for warning in caught] == [__file__]
    return contents


def assert_same(found, expected):
    assert_close(found, expected, rtol=0, atol=0)


def test_a_network_file_of_an_earlier_version_loads():
    saved = loaded_with_a_warning(l0.load, "network.safetensors")
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -0.125]])
    assert_same(saved.params, {"layer.weight": weight, "layer.bias": torch.tensor([0.5, -1.5])})
    assert_same(saved.gates, {"layer.weight": torch.tensor([2.0, -1.0])})
    scale = torch.tensor([0.5, 4.0], dtype=torch.float64)
    assert_same(saved.buffers, {"count": torch.tensor(7), "scale": scale})
    assert_same(saved.extra, {"layer.exp_avg": torch.tensor([0.125, 8.0])})
    rules = {"*.weight": l0.axis(0), "*.bias": None}
    cold = l0.HardConcrete(temperature=0.5)
    assert saved.spec == l0.gate_spec(saved.params, rules, distribution=cold)


def loss(params, gates, buffers, key, x):
    return (params["w"] * gates["w"] * x).sum(), {"seen": buffers["seen"] + 1}


@pytest.fixture
def run():
    """The training of the file: two steps from here made it."""
    params = {"w": torch.tensor([1.0, -2.0, 0.5])}
    gates = {"w": torch.tensor([2.0, -1.0, 0.0])}
    spec = l0.gate_spec(params)
    adam = l0.optimizer(torch.optim.Adam, lr=0.5)
    sgd = l0.optimizer(torch.optim.SGD, lr=0.25, momentum=0.5)
    control = l0.lagrangian(spec, 0.5, lr=0.5)
    training = l0.training(loss, adam, sgd, control=control, average=0.5)
    start = training.init(l0.random.key(3), params, gates, {"seen": torch.tensor(0)})
    return training, start, spec


def test_a_state_file_of_an_earlier_version_loads(run):
    _, start, spec = run
    state = loaded_with_a_warning(l0.load_state, "state.safetensors", start, spec, {"lr": 0.5})
    assert_same(state.step, torch.tensor(2))
    assert_same(state.key, torch.tensor([3, 0]))
    assert_same(state.buffers, {"seen": torch.tensor(2)})
    weights = torch.tensor([0.0028436481952667236, -1.1645450592041016, 0.8720684051513672])
    assert_same(state.params, {"w": weights})
    log_alpha = torch.tensor([1.4969089031219482, 1.2359166145324707, 0.3000958561897278])
    assert_same(state.gates, {"w": log_alpha})
    adam, sgd = state.moments["params"]["w"], state.moments["gates"]["w"]
    mean = torch.tensor([0.3549870550632477, -0.18022888898849487, -0.01243005320429802])
    square = torch.tensor([0.007058046758174896, 0.003996005281805992, 1.5450623322976753e-05])
    assert_same(adam, {"step": torch.tensor(2.0), "exp_avg": mean, "exp_avg_sq": square})
    momentum = torch.tensor([1.0118461847305298, -4.948244094848633, -0.703181266784668])
    assert_same(sgd, {"momentum_buffer": momentum})
    weights = torch.tensor([0.16856244206428528, -1.2763633728027344, 0.7480456233024597])
    log_alpha = torch.tensor([1.5812294483184814, 0.8235629796981812, 0.24149742722511292])
    assert_same(state.averages, {"params": {"w": weights}, "gates": {"w": log_alpha}})
    half, one = torch.tensor([0.5]), torch.tensor([1.0])
    assert_same(state.control, l0.LagrangianState(torch.tensor(2), half, one, half))


def test_a_run_goes_on_from_the_state_file_of_an_earlier_version(run):
    training, state, spec = run
    x = torch.tensor([1.0, 2.0, -1.0])
    for _ in range(3):
        state, _ = training.step(state, x)
    loaded = loaded_with_a_warning(l0.load_state, "state.safetensors", run[1], spec, {"lr": 0.5})
    resumed, _ = training.step(loaded, x)
    assert_close(tree.leaves(resumed), tree.leaves(state))


def test_a_file_saved_again_has_digests_and_no_warning(tmp_path):
    saved = loaded_with_a_warning(l0.load, "network.safetensors")
    l0.save(tmp_path / "new.safetensors", *saved)
    again = l0.load(tmp_path / "new.safetensors")
    assert again.spec == saved.spec
    assert_same(tree.leaves(again[:3]), tree.leaves(saved[:3]))
