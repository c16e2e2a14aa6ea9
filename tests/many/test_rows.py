"""Rows over several processes: their masks are those of one process, or apart on purpose."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
import torch
from device import WHOLE_MODULES
from processes import processes
from torch import distributed, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import l0func as l0
from l0func.module import arrival

ROWS = 37
# How many rows each process has.
PARTS = {2: [20, 17], 3: [22, 15, 0], 4: [0, 36, 0, 1]}


class Blocks(nn.Module):
    """A network with dropout, a checkpoint, and a layer that no forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 3)
        self.norm, self.dropout = nn.LayerNorm(8), nn.Dropout(0.3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(self.norm(self.first(x)).relu()))


class Convolutions(nn.Sequential):
    """A network that reads images and counts on their number of rows."""

    def __init__(self) -> None:
        layers = [nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten()]
        super().__init__(*layers, nn.Linear(4, 3))


def wrapped(kind: type[nn.Module], **settings: Any) -> l0.L0Module:
    torch.manual_seed(0)
    settings = {"seed": 0, "droprate_init": 0.5, "per_example": True} | settings
    return l0.L0Module(kind(), 1e-3, **settings)


def part_of_rank(order: torch.Tensor) -> torch.Tensor:
    """The rows of this process."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    start = sum(PARTS[size][:rank])
    return order[start : start + PARTS[size][rank]]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Examples, and their rows dealt to the processes out of order."""
    x = l0.random.normal(l0.random.key(5), (ROWS, 12))
    return x, l0.random.uniform(l0.random.key(6), ROWS).argsort()


def compare_with_one_process(kind: type[nn.Module], sampling: Any) -> list[str]:
    settings = {"sampling": sampling}
    if sampling == "exact":
        settings["rules"] = {"*weight": l0.element(), "*bias": None}
    net, one = wrapped(kind, **settings), wrapped(kind, **settings)
    ddp: Any = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    x, order = batch()
    rows = part_of_rank(order)
    for step in range(3):
        y, whole = ddp(x[rows], rows=rows), one(x, rows=torch.arange(ROWS))
        assert_close(y, whole[rows], rtol=1e-6, atol=1e-6, msg=f"step {step}")
        # DistributedDataParallel averages over processes.
        (y.square().sum() * distributed.get_world_size() / ROWS).backward()
        whole.square().sum().div(ROWS).backward()
        for (path, p), q in zip(net.named_parameters(), one.parameters(), strict=True):
            expected = torch.zeros_like(q) if q.grad is None else q.grad
            got = torch.zeros_like(p) if p.grad is None else p.grad
            assert_close(got, expected, rtol=1e-6, atol=1e-6, msg=path)
        if len(rows) == 0:
            assert y.shape == (0, 3)
    assert net.draws == 3
    net.eval(), one.eval()
    assert_close(ddp(x[rows], rows=rows), one(x)[rows], rtol=1e-6, atol=1e-6)
    del ddp
    gc.collect()
    return [str(len(rows))]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("kind", [Blocks, Convolutions])
@pytest.mark.parametrize("sampling", ["exact", "local_reparam"])
def test_rows_over_processes_give_what_one_process_gives(size, kind, sampling):
    counts = processes(size).run(compare_with_one_process, kind, sampling)
    assert counts == [[str(n)] for n in PARTS[size]]


def masks_of_rank(settings: dict[str, Any], with_rows: bool) -> torch.Tensor:
    """The masks of each of 24 rows, as one-hot rows show them, over two forwards."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    settings = {name: v[rank] if isinstance(v, list) else v for name, v in settings.items()}
    layer = nn.Linear(24, 24, bias=False)
    nn.init.ones_(layer.weight)
    net = wrapped(lambda: layer, **settings)
    rows = torch.arange(24).tensor_split(size)[rank]
    named = {"rows": rows} if with_rows else {}
    ddp: Any = nn.parallel.DistributedDataParallel(net)
    found = torch.stack([ddp(torch.eye(24)[rows], **named) for _ in range(2)]).detach()
    key = net.key.clone()
    del ddp
    gc.collect()
    all_keys = [torch.empty_like(key) for _ in range(size)]
    untyped: Any = distributed
    untyped.all_gather(all_keys, key)
    seeds = settings["seed"]
    assert (len({tuple(k.tolist()) for k in all_keys}) == 1) == (seeds == 0), "keys were sent"
    return found


def equal_share(first: torch.Tensor, other: torch.Tensor) -> float:
    n = min(first.shape[1], other.shape[1])
    return ((first != 0) == (other != 0))[:, :n].float().mean().item()


@pytest.mark.parametrize("size", [2, 3])
def test_masks_of_rows_are_bit_equal_and_those_of_processes_apart_are_not(size):
    layer = nn.Linear(24, 24, bias=False)
    nn.init.ones_(layer.weight)
    one = wrapped(lambda: layer)
    expected = torch.stack([one(torch.eye(24)) for _ in range(2)]).detach()
    found = processes(size).run(masks_of_rank, {"seed": 0}, True)
    assert torch.equal(torch.cat(found, 1), expected)
    shared = wrapped(lambda: layer, per_example=False)
    expected = torch.stack([shared(torch.eye(24)) for _ in range(2)]).detach()
    found = processes(size).run(masks_of_rank, {"seed": 0, "per_example": False}, False)
    assert torch.equal(torch.cat(found, 1), expected)
    for settings in ({"seed": [3, 4, 5]}, {"seed": 0, "rank": [0, 1, 2]}):
        for per_example in (True, False):
            apart = settings | {"per_example": per_example}
            found = processes(size).run(masks_of_rank, apart, False)
            assert 0.4 < equal_share(found[0][..., :24], found[1]) < 0.6


class Small(nn.Linear):
    """A layer that compiles fast."""

    def __init__(self) -> None:
        super().__init__(12, 3)


def refused_without_rows(compiled: bool) -> str:
    """The message of the error; a checkpoint that gives one key to all has it again."""
    rank = distributed.get_rank()
    x = torch.ones(4 if rank else 2, 12)
    net = wrapped(Small, seed=0)
    with pytest.raises(ValueError, match="rows") as caught:
        net(x)
    saved = net.state_dict()
    other = wrapped(Small, seed=rank)
    run: Any = torch.compile(other, backend="eager", fullgraph=True) if compiled else other
    assert run(x).shape == run(x).shape == (len(x), 3)
    other.load_state_dict(saved)
    with pytest.raises(Exception, match="hold the same key"):
        run(x)
    # One row after another, on one process alone: no call waits for the others.
    if rank == 0:
        rows = torch.tensor([3, 1])
        assert other(torch.ones(2, 12), rows=rows).shape == (2, 3)
        assert other.eval()(torch.ones(2, 12)).shape == (2, 3)
    return str(caught.value)


@pytest.mark.parametrize(
    ("size", "compiled"),
    [
        (2, False),
        (3, False),
        pytest.param(2, True, marks=[pytest.mark.compiles, pytest.mark.slow]),
    ],
)
def test_equal_keys_without_rows_are_refused_in_every_process(size, compiled):
    messages = processes(size).run(refused_without_rows, compiled)
    assert len(set(messages)) == 1
    assert "Processes 0 and 1 hold the same key" in messages[0]
    assert "net(x, rows=index)" in messages[0]
    assert "rank=torch.distributed.get_rank()" in messages[0]


def compiled_rows() -> None:
    net, one = wrapped(Small), wrapped(Small)
    fast: Any = torch.compile(net, backend="eager", fullgraph=True)
    x, order = batch()
    rows = part_of_rank(order)
    for _ in range(2):
        whole = one(x, rows=torch.arange(ROWS))
        assert_close(fast(x[rows], rows=rows), whole[rows], rtol=1e-6, atol=1e-6)


@pytest.mark.compiles
@WHOLE_MODULES
def test_compiled_rows_over_processes_give_what_one_process_gives():
    processes(2).run(compiled_rows)


class Checkpointed(Blocks):
    """The same network; the backward pass runs a part of it again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def checkpointed(per_example: bool) -> None:
    net, plain = (wrapped(kind, per_example=per_example) for kind in (Checkpointed, Blocks))
    ddp: Any = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    x = batch()[0]
    (ddp(x) * distributed.get_rank()).sum().backward()
    (plain(x) / 2).sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        if q.grad is not None:
            assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)
    del ddp
    gc.collect()


def test_a_checkpoint_inside_runs_again_with_the_masks_that_all_processes_share():
    processes(2).run(checkpointed, False)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([0, 1, 2], {}, "rows are the global numbers of rows, an int64 tensor"),
        (torch.arange(3.0), {}, "an int64 tensor of shape"),
        (torch.ones(3, dtype=torch.bool), {}, "an int64 tensor of shape"),
        (torch.arange(4), {}, r"shape \(3,\); got \(4,\)"),
        (torch.arange(3)[:, None], {}, r"shape \(3,\); got \(3, 1\)"),
        (torch.tensor([0, -1, 2]), {}, "numbered from 0; got -1"),
        (torch.arange(3), {"rank": 1}, "Leave one of them out"),
        (torch.arange(3), {"per_example": False}, "Set per_example=True"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(rows, settings, message):
    net = wrapped(Blocks, **settings)
    with pytest.raises((TypeError, ValueError), match=message):
        net(torch.ones(3, 12), rows=rows)


def test_a_module_keeps_an_input_of_the_name_rows():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 3)

        def forward(self, x, rows):
            return self.linear(x) * rows

    net = wrapped(Scaled)
    x = batch()[0]
    again = wrapped(Scaled)
    assert_close(net(x, rows=torch.zeros(ROWS, 1)), torch.zeros(ROWS, 3))
    again.draws = 1
    assert_close(net(x, rows=torch.ones(ROWS, 1)), again(x, torch.ones(ROWS, 1)))


def with_and_without(seed_apart: bool) -> list[str]:
    """Only the first process passes rows; afterwards all do as they should, and it is late."""
    rank = distributed.get_rank()
    # All meet, and so end what earlier checks in this group left.
    wrapped(Small, seed=rank)(torch.ones(2, 12))
    soon, patience = arrival.SOON, arrival.PATIENCE_WITH_ROWS
    arrival.SOON = arrival.PATIENCE_WITH_ROWS = 0.1
    x, said = torch.ones(2, 12), list[str]()
    for _ in range(2):
        net = wrapped(Small, seed=3 * rank if seed_apart else 0)
        if rank == 0:
            net(x, rows=torch.arange(2))
        else:
            with pytest.raises(ValueError, match="and this process passes none") as caught:
                net(x)
            said.append(str(caught.value))
        come_with_first_late()
        assert wrapped(Small, seed=3 * rank)(x).shape == (2, 3)
        assert wrapped(Small, seed=0)(x, rows=torch.arange(2)).shape == (2, 3)
        come_with_first_late()
        with pytest.raises(ValueError, match="Processes 0 and 1 hold the same key"):
            wrapped(Small, seed=0)(x)
    arrival.SOON, arrival.PATIENCE_WITH_ROWS = soon, patience
    return said


def come_with_first_late() -> None:
    untyped: Any = distributed
    untyped.barrier()
    if distributed.get_rank() == 0:
        time.sleep(0.3)


@pytest.mark.parametrize("seed_apart", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_rows_in_some_processes_only_are_refused_in_the_others(size, seed_apart):
    first, *others = processes(size).run(with_and_without, seed_apart)
    assert first == []
    for said in [line for lines in others for line in lines]:
        assert ("Process 0 holds the same key" in said) != seed_apart
        assert "Pass rows in every process or in none" in said
