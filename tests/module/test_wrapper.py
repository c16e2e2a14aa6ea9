"""What trainers and savers ask of L0Module: signature, files, tied weights, hooks."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l0func as l0

st: Any = pytest.importorskip("safetensors.torch")


class Model(nn.Module):
    """A module with several inputs and with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mid = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("again", self.scale)

    def forward(self, ids: Tensor, mask: Any = None, *, flip: bool = False) -> Tensor:
        h = torch.relu(self.mid(self.embed(ids))) * self.scale
        return self.out(-h if flip else h)


IDS = torch.tensor([[1, 2], [3, 4]])


def build(seed: int = 0) -> l0.L0Module:
    return l0.L0Module(Model(), 1e-3, seed=seed)


class Own(l0.L0Module):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids, flip=True)


COPIES = {
    "itself": lambda net: net,
    "a deep copy": copy.deepcopy,
    "a copy": copy.copy,
    "a pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "a file": lambda net: through_a_file(net),
}


def through_a_file(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_forward_shows_the_wrapped_module_s_signature(copied: Any):
    net = copied(build())
    assert inspect.signature(net.forward) == inspect.signature(Model().forward)
    assert "under masks" in net.forward.__doc__
    assert inspect.ismethod(net.forward)
    assert net.forward.__self__ is net
    torch.testing.assert_close(copied(build())(IDS, flip=True), build()(IDS, flip=True))


def test_every_object_shows_its_own_signature_and_the_class_none():
    first, second = build(), l0.L0Module(nn.Linear(2, 2), 1.0)
    assert list(inspect.signature(first.forward).parameters) == ["ids", "mask", "flip"]
    assert list(inspect.signature(second.forward).parameters) == ["input"]
    assert "inputs" in inspect.signature(l0.L0Module.forward).parameters


def test_a_subclass_s_own_forward_and_a_replaced_one_are_called():
    own = Own(Model(), 1e-3, seed=0)
    assert list(inspect.signature(own.forward).parameters) == ["ids"]
    torch.testing.assert_close(own(IDS), build()(IDS, flip=True))
    replaced: Any = build()
    replaced.forward = lambda ids: 2 * ids
    assert torch.equal(replaced(IDS), 2 * IDS)


def test_a_module_with_a_signature_is_a_pure_function_too():
    net = build().eval()
    fn, params, buffers = l0.make_functional(net)
    torch.testing.assert_close(fn(params, buffers, IDS, flip=True), net(IDS, flip=True))


def test_a_state_holds_tensors_alone_and_each_tied_one_once():
    net = build()
    net(IDS)
    state = net.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    names = {name for name in state if "module" in name}
    assert names == {f"module.{n}" for n in ("embed.weight", "mid.weight", "mid.bias", "scale")}
    shape = state["_extra_state"].shape
    for _ in range(12):
        net(IDS)
    assert net.state_dict()["_extra_state"].shape == shape
    outer = nn.Sequential(net)
    assert set(outer.state_dict()) == {f"0.{name}" for name in state}
    assert set(net.state_dict(prefix="x.")) == {f"x.{name}" for name in state}


def by_save_file(net: Any, path: Any) -> None:
    st.save_file(net.state_dict(), path)


def by_load_file(net: Any, path: Any) -> None:
    net.load_state_dict(st.load_file(path))


@pytest.mark.parametrize("save", [by_save_file, st.save_model], ids=["file", "model"])
@pytest.mark.parametrize("load", [by_load_file, st.load_model], ids=["file", "model"])
@pytest.mark.parametrize("wrap", [lambda net: net, nn.Sequential], ids=["alone", "inside"])
def test_safetensors_saves_and_loads_a_module_with_tied_weights(save, load, wrap, tmp_path):
    net, other = build(), build(seed=5)
    net(IDS)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    save(wrap(net), tmp_path / "net.safetensors")
    load(wrap(other), tmp_path / "net.safetensors")
    assert other.module.out.weight is other.module.embed.weight
    assert other.draws == 1
    assert torch.equal(other(IDS), net(IDS))


def test_a_checkpoint_with_a_dict_and_with_all_tied_names_still_loads():
    net, other = build(), build(seed=5)
    state = dict(net.state_dict())
    state["_extra_state"] = {"spec": net.spec.to_json(), "draws": 7}
    state["module.out.weight"] = state["module.embed.weight"]
    state["module.again"] = state["module.scale"]
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert other.draws == 7
    del state["module.embed.weight"]
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    del state["module.out.weight"]
    with pytest.raises(RuntimeError, match=r"embed\.weight"):
        other.load_state_dict(state)


DAMAGED = {
    "floats": (lambda t: t.float(), r"a tensor of torch\.float32"),
    "other bytes": (lambda t: t // 2, "JSON in a tensor of bytes"),
    "a list": (lambda t: t.tolist(), "a list"),
    "other keys": (lambda t: {"draws": 1}, r"a dict with the keys \['draws'\]"),
}


@pytest.mark.parametrize(("damage", "match"), DAMAGED.values(), ids=DAMAGED.keys())
def test_an_extra_state_that_is_none_is_refused_before_anything_is_loaded(damage, match):
    net, state = build(), build(seed=5).state_dict()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state["_extra_state"] = damage(state["_extra_state"])
    with pytest.raises(ValueError, match=match):
        net.load_state_dict(state)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


class Hooked(nn.Module):
    """A module that registers a hook in its first forward, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Linear(3, 3), []

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        if not getattr(self, "hooked", False):
            self.layer.register_forward_hook(lambda module, args, y: 2 * y)
            self.hooked = True
        return self.layer(x), len(self.layer._forward_hooks)


@pytest.mark.parametrize("ran", [False, True])
def test_a_hook_that_forward_registers_is_one_hook_however_often_it_runs(ran: bool):
    net, x = Hooked(), torch.ones(2, 3)
    expected = Hooked()(x)[0]
    if ran:
        net(x)
    fn, params, buffers = l0.make_functional(net)
    module = l0.L0Module(net, 0.0, rules={"*": None}, seed=0)
    for mode in (True, True, False, True):
        y, count = fn(params, buffers, x)
        assert count == 1
        torch.testing.assert_close(y, expected)
        y, count = module.train(mode)(x)
        assert count == 1
        torch.testing.assert_close(y, expected)
    assert len(module.module.layer._forward_hooks) == 1


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.on = nn.Linear(3, 3), None

    def gradient_checkpointing_enable(self, kwargs: Any = None) -> None:
        self.on = kwargs

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_checkpointing_is_the_wrapped_module_s_and_absent_without_it():
    net = l0.L0Module(Checkpointed(), 1e-3)
    net.gradient_checkpointing_enable({"use_reentrant": False})
    assert net.module.on == {"use_reentrant": False}
    assert not hasattr(net, "activation_checkpointing_enable")
    assert not hasattr(build(), "gradient_checkpointing_enable")
