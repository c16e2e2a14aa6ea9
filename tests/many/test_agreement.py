"""Processes that disagree on anything are told so, all of them: which process, and on what."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from processes import processes
from torch import distributed, nn

import l0func as l0

untyped_distributed: Any = distributed


@cache
def _network() -> tuple[Any, ...]:
    torch.manual_seed(0)
    fn, params, _ = l0.make_functional(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    spec = l0.gate_spec(params)
    return fn, params, l0.init_gates(l0.random.key(0), spec), spec


@cache
def _state() -> l0.TrainState:
    _, params, gates, _ = _network()
    adam = l0.optimizer(torch.optim.Adam, lr=0.1)
    training = l0.training(lambda *_: torch.zeros(()), adam, adam)
    return training.init(l0.random.key(2), params, gates, {})


def _with(tree: dict[str, Any], name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    return {**tree, name: change(tree[name])}


def _one_bit(t: torch.Tensor) -> torch.Tensor:
    """The tensor with the last bit of its last number turned."""
    bits = t.detach().clone().reshape(-1)
    bits[-1] = torch.nextafter(bits[-1], torch.tensor(9.0))
    return bits.view(t.shape)


def _transposed_spec() -> Any:
    params = _network()[1]
    return l0.gate_spec(params, {"0.weight": l0.axis(0), "*": l0.element()})


# For each kind: what the last process has instead, and the message's words for it.
KINDS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "key": ("key", lambda: l0.random.key(5), r"key: int64 of shape \(2,\), with \[0, 0\] in "),
    "key of the next step": ("key", lambda: l0.random.fold_in(l0.random.key(0), 1), "key: "),
    "spec": ("spec", _transposed_spec, r"the gates '0\.weight' of spec: .*\[4, 3\].*\[4\]"),
    "temperature": (
        "spec",
        lambda: _network()[3].with_distribution(l0.HardConcrete(0.5)),
        r"'0\.weight' of spec: .*0\.666.*0\.5",
    ),
    "one gate": (
        "gates",
        lambda: _with(_network()[2], "1.weight", _one_bit),
        r"gates '1\.weight': float32 of shape \(2, 4\), with values of SHA-256",
    ),
    "minus zero": (
        "params",
        lambda: _with(_network()[1], "1.bias", lambda t: t.detach() * 0 - 0.0),
        r"params '1\.bias'",
    ),
    "no gates": ("gates", dict, r"gates '0\.weight': float32 .*; nothing in process"),
    "precision": (
        "params",
        lambda: _with(_network()[1], "0.bias", lambda t: t.double()),
        r"params '0\.bias': float32 of shape \(4,\).*float64",
    ),
    "shape": (
        "params",
        lambda: _with(_network()[1], "0.bias", lambda t: t[:3]),
        r"params '0\.bias': .*\(4,\).*\(3,\)",
    ),
    "step": ("step", lambda: 4, "step: 3 in .*; 4 in process"),
    "moment": (
        "state",
        lambda: _state()._replace(step=torch.tensor(1)),
        r"state 'step': int64 of shape \(\), with 0 in .*; int64 of shape \(\), with 1 in process",
    ),
    "text": ("run", lambda: "b", "run: 'a' in .*; 'b' in"),
    "long text": ("path", lambda: "x" * 300 + "y", "path: 'xxx.*SHA-256"),
}


def _things() -> dict[str, Any]:
    _, params, gates, spec = _network()
    values = {"spec": spec, "key": l0.random.key(0), "gates": gates, "params": params}
    return {**values, "step": 3, "state": _state(), "run": "a", "path": "x" * 300 + "z"}


def _messages(which: int) -> dict[str, str]:
    """For each kind the message where one process differs."""
    things = _things()
    found: dict[str, str] = {}
    for kind, (name, change, _) in KINDS.items():
        own = {**things, name: change()} if distributed.get_rank() == which else things
        found[kind] = _refusal(**own)
        # The next call finds the processes together again.
        l0.check_agreement(**things)
    return found


def _refusal(**things: Any) -> str:
    try:
        l0.check_agreement(**things)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


@pytest.mark.parametrize(("size", "which"), [(2, 1), (3, 0)])
def test_all_processes_name_the_part_and_the_process_that_differs(size, which):
    messages = processes(size).run(_messages, which)
    assert all(own == messages[0] for own in messages)
    for kind, (_, _, words) in KINDS.items():
        text = messages[0][kind]
        assert re.search(words, text), text
        assert f"in process {which}" in text


def _module(**settings: Any) -> l0.L0Module:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"lam": 1e-3, "seed": 0, "per_example": True, **settings}
    return l0.L0Module(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), **chosen)


def _one_draw_more(net: l0.L0Module) -> None:
    net.draws += 1


PARTS: dict[str, Callable[[l0.L0Module], Any]] = {
    "draws": _one_draw_more,
    "training": lambda net: net.eval(),
    "gates": lambda net: next(iter(net.gates().values())).data.add_(1),
    "weights": lambda net: next(iter(net.weights().values())).data.add_(1),
    "buffers": lambda net: next(net.module.buffers()).add_(1),
    "estimator": lambda net: setattr(net, "estimator", "median"),
    "lam": lambda net: setattr(net, "lam", 1e-2),
    "key": lambda net: setattr(net, "key", l0.random.key(9)),
    "spec": lambda net: setattr(net, "spec", _module(temperature=0.5).spec),
}


def _messages_of_modules() -> dict[str, str]:
    found: dict[str, str] = {}
    for part, change in PARTS.items():
        net = _module()
        if distributed.get_rank() == 1:
            change(net)
        found[part] = _refusal(net=net)
    return found


def test_an_l0_module_of_another_process_is_named_by_its_part():
    first, second = processes(2).run(_messages_of_modules)
    assert first == second
    for part, text in first.items():
        assert f"net.{part}" in text, text


def _seeds_with_rows() -> None:
    """DistributedDataParallel sends weights and no keys: nothing shows seeds that differ."""
    rank = distributed.get_rank()
    net = _module(seed=rank)
    ddp: Any = nn.parallel.DistributedDataParallel(net)
    ddp(torch.ones(2, 3), rows=torch.arange(2))
    with pytest.raises(ValueError, match=r"net\.key: .*\[.* in process 0; .* in process 1"):
        l0.check_agreement(net=ddp)
    del ddp
    gc.collect()


def test_seeds_that_differ_under_rows_are_found():
    processes(2).run(_seeds_with_rows)


def _costs() -> tuple[int, int]:
    """The collectives of one check and their bytes, as torch's functions are asked for them."""
    from torch.distributed.tensor.debug import CommDebugMode

    things = _things()
    with CommDebugMode() as counted:
        l0.check_agreement(**things)
    return counted.get_total_counts(), len(counted.get_comm_counts())


def test_a_check_of_equal_values_is_one_collective():
    pytest.importorskip("torch.distributed.tensor.debug", reason="torch has no counter")
    assert processes(3).run(_costs) == [(1, 1)] * 3


def _errors() -> None:
    rank = distributed.get_rank()
    with pytest.raises(TypeError, match="fn is PureModule"):
        l0.check_agreement(fn=_network()[0])
    # One process alone cannot compare: the others are not left to wait.
    expected = (
        (TypeError, "is function") if rank else (ValueError, "error.*is function.*process 1")
    )
    with pytest.raises(expected[0], match=expected[1]):
        l0.check_agreement(value=(lambda: 1) if rank else 1)
    with pytest.raises(ValueError, match="given nothing"):
        l0.check_agreement()
    own = [untyped_distributed.new_group([number]) for number in range(2)]
    l0.check_agreement(group=own[rank], rank=rank)
    for call in (
        lambda: l0.check_agreement(group=own[1 - rank], rank=rank),
        lambda: l0.all_reduce_mean({"a": torch.ones(1)}, 2, group=own[1 - rank]),
    ):
        with pytest.raises(ValueError, match=f"process {rank} is not in the group"):
            call()


def test_wrong_arguments_are_refused_in_every_process():
    processes(2).run(_errors)


def test_a_single_process_without_a_group_is_told_to_make_one():
    with pytest.raises(RuntimeError, match=r"check_agreement needs .*init_process_group"):
        l0.check_agreement(key=l0.random.key(0))
