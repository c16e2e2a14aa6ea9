"""L0Module: gates stay in float32 or float64, and the key in int64, through every cast."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import l0func as l0

CASTS = {
    "to bfloat16": lambda net: net.to(torch.bfloat16),
    "to float16": lambda net: net.to(torch.float16),
    "to device and bfloat16": lambda net: net.to("cpu", torch.bfloat16),
    "to a tensor's type": lambda net: net.to(torch.zeros((), dtype=torch.bfloat16)),
    "half": lambda net: net.half(),
    "bfloat16": lambda net: net.bfloat16(),
    "type": lambda net: net.type(torch.bfloat16),
    "every module": lambda net: net.apply(lambda m: m.to(torch.bfloat16)),
    "half and back": lambda net: net.half().float(),
    "float64 and half": lambda net: net.double().half(),
    "float64 and back": lambda net: net.double().float(),
}


def build() -> l0.L0Module:
    return l0.L0Module(nn.Linear(4, 3), 1e-3, seed=0)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a parent"])
def test_gates_are_float32_and_keep_every_bit(cast, inside):
    net, same = build(), build()
    cast(nn.Sequential(net) if inside else net)
    for name, gate in net.gates().items():
        assert gate.dtype == torch.float32
        assert torch.equal(gate.cpu(), same.gates()[name].cpu())
    assert torch.equal(net.key.cpu(), same.key.cpu())
    assert net.key.dtype == torch.int64


def test_weights_follow_the_cast_and_the_module_runs():
    net = build().to(torch.bfloat16)
    y = net(torch.ones(2, 4, dtype=torch.bfloat16))
    assert net.module.weight.dtype == y.dtype == torch.bfloat16
    (y.float().sum() + net.regularization()).backward()
    assert net.log_alpha["weight"].grad.dtype == torch.float32


def test_float64_is_the_one_cast_that_gates_follow():
    net = nn.Sequential(build()).double()[0]
    assert all(gate.dtype == torch.float64 for gate in net.gates().values())
    assert net.key.dtype == torch.int64
    assert net(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_gates_move_in_a_bfloat16_module():
    net = build().to(torch.bfloat16)
    with torch.no_grad():
        for gate in net.gates().values():
            gate.fill_(3.0)
    adam = torch.optim.Adam(net.gates().values(), lr=5e-3)
    for _ in range(50):
        adam.zero_grad()
        net.regularization().backward()
        adam.step()
    assert all((gate < 2.9).all() for gate in net.gates().values())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("source", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target", [torch.bfloat16, torch.float32])
def test_states_load_between_precisions(source, target, assign):
    saved = build().to(source).state_dict()
    net = l0.L0Module(nn.Linear(4, 3), 1e-3, seed=5).to(target)
    net.load_state_dict(saved, assign=assign)
    gates = [gate.float() for gate in net.gates().values()]
    assert all(map(torch.equal, gates, [gate.detach() for gate in build().gates().values()]))
    assert torch.equal(net.key, build().key)


def test_a_state_with_half_gates_gives_float32_gates():
    saved = build().state_dict()
    halved = {name: t.half() if name.startswith("log") else t for name, t in saved.items()}
    net = build()
    net.load_state_dict(halved, assign=True)
    assert all(gate.dtype == torch.float32 for gate in net.gates().values())


def test_a_file_of_the_first_release_loads():
    # It held the key among the buffers, and the draws beside the spec.
    net = build()
    net(torch.ones(2, 4))
    old = {name: value for name, value in net.state_dict().items()}
    assert set(old) == {
        "log_alpha.weight",
        "log_alpha.bias",
        "key",
        "module.weight",
        "module.bias",
        "_extra_state",
    }
    old["_extra_state"] = {"spec": net.spec.to_json(), "draws": 1}
    file = io.BytesIO()
    torch.save(old, file)
    file.seek(0)
    again = l0.L0Module(nn.Linear(4, 3), 1e-3, seed=8)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.draws == 1
    assert torch.equal(again(torch.ones(2, 4)), net(torch.ones(2, 4)))


def test_a_key_that_was_averaged_or_cast_is_refused():
    saved = build().state_dict()
    with pytest.raises(ValueError, match=r"'key' is a key, an int64.*of torch.float32"):
        build().load_state_dict({**saved, "key": saved["key"].float()})
    del saved["key"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "key"'):
        build().load_state_dict(saved)
