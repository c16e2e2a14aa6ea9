"""L0Module's draws: repeated by the functional core, apart by process, compiled and averaged."""

from __future__ import annotations

import copy

import pytest
import torch
from device import WHOLE_MODULES
from sampled import one_in, sampled
from torch import nn
from torch.optim.swa_utils import AveragedModel

import l0func as l0
from l0func.internal.context import compiles

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def build(**settings: object) -> l0.L0Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 2)]
    return l0.L0Module(nn.Sequential(*layers), 1e-3, seed=0, **settings)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("per_example", [False, True])
def test_a_training_step_is_repeated_bit_for_bit_by_the_functional_core(per_example, rank):
    net = build(per_example=per_example, rank=rank)
    net(X)
    params, gates = net.weights(), net.gates()
    fn, _, buffers = l0.make_functional(net.module)
    y = net(X)
    grads = torch.autograd.grad(y.square().sum(), [*params.values(), *gates.values()])
    apply, key = l0.gated(fn, net.spec), net.key_of(net.draws)
    if per_example:
        apply, key = l0.per_example(apply), l0.random.split(key, len(X))
    again, new = apply.with_buffers(params, gates, buffers, key, X)
    assert torch.equal(again, y)
    same = torch.autograd.grad(again.square().sum(), [*params.values(), *gates.values()])
    assert all(map(torch.equal, grads, same))
    assert all(torch.equal(new[path], b) for path, b in net.module.named_buffers())


def test_the_key_of_a_draw_is_the_key_with_its_number_folded_in():
    net = build()
    for draw in (1, 2, 700):
        assert torch.equal(net.key_of(draw), l0.random.fold_in(net.key, draw))
    net.draws = 41
    expected = build()
    expected.draws = 41
    assert torch.equal(net(X), expected(X))
    assert net.draws == 42


def test_processes_with_one_seed_draw_apart_and_the_first_as_a_single_one():
    nets = [build(per_example=True, rank=rank) for rank in (0, 1, 2)]
    outputs = [net(X) for net in nets]
    assert torch.equal(outputs[0], build(per_example=True)(X))
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    keys = [net.key_of(draw) for net in nets for draw in (1, 2, 3)]
    assert len({tuple(key.tolist()) for key in keys}) == 9


# On a card torch's own average divides every integer buffer, which no longer exists there.
@pytest.mark.on_cpu
@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_keeps_the_key_and_averages_the_gates(use_buffers):
    net = build()
    average = AveragedModel(net, use_buffers=use_buffers)
    seen = []
    for step in range(3):
        net(X)
        with torch.no_grad():
            for gate in net.gates().values():
                gate += step
        average.update_parameters(net)
        seen.append(net.gates()["0.weight"].detach().clone())
    mean = average.module.gates()["0.weight"]
    torch.testing.assert_close(mean, torch.stack(seen).mean(0))
    assert torch.equal(average.module.key, net.key)
    assert average.eval()(X).isfinite().all()


def test_transforms_around_it_leave_the_count_a_number():
    net = l0.L0Module(nn.Linear(4, 2), 1e-3, seed=0)
    torch.func.grad(lambda x: net(x).sum())(X)
    torch.func.vmap(net, randomness="same")(X)
    torch.func.jvp(net, (X,), (X,))
    assert net.draws == 3
    assert net(X).shape == (6, 2)


@pytest.mark.parametrize("per_example", [False, True])
def test_a_vmap_around_it_would_share_one_mask_and_is_refused(per_example):
    net = l0.L0Module(nn.Linear(4, 2), 1e-3, seed=0, per_example=per_example)
    held = {name: p.detach() for name, p in net.named_parameters()}

    def alone(x):
        return net(x[None])[0]

    def loss(params, x):
        return torch.func.functional_call(net, params, (x[None],)).square().sum()

    mapped = {
        "rows": lambda **how: torch.vmap(alone, **how)(X),
        "gradients": lambda **how: torch.vmap(torch.func.grad(loss), (None, 0), **how)(held, X),
        "inside": lambda **how: torch.func.grad(lambda x: torch.vmap(alone, **how)(x).sum())(X),
        "forward mode": lambda **how: torch.func.jacfwd(alone, **how)(X[0]),
    }
    for name, run in mapped.items():
        for how in ({}, {"randomness": "different"}):
            with pytest.raises(ValueError, match=r"share one mask.*per_example=True"):
                run(**how)
        run(randomness="same")
        net.eval()
        assert run() is not None, name
        net.train()
    assert net.draws == len(mapped)


def test_a_checkpoint_around_it_is_refused_and_one_around_eval_mode_is_not():
    for reentrant in (False, True):
        net = l0.L0Module(nn.Linear(4, 2), 1e-3, seed=0)
        x = X.clone().requires_grad_()
        run = torch.utils.checkpoint.checkpoint
        y = run(net, x, use_reentrant=reentrant)
        with pytest.raises(RuntimeError, match=r"ran again in the backward pass.*wrap the"):
            y.sum().backward()
        run(net.eval(), x, use_reentrant=reentrant).sum().backward()
        assert x.grad is not None


def test_data_parallel_is_refused_by_name():
    with pytest.raises(RuntimeError, match=r"Use nn\.parallel\.Dist"):
        build()._replicate_for_data_parallel()


@pytest.mark.skipif(not compiles(), reason="the library compiles on later torch")
@WHOLE_MODULES
@pytest.mark.parametrize("per_example", sampled([True, False], one_in(2)))
def test_a_compiled_module_compiles_once_a_mode_and_draws_as_the_eager_one(per_example):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    net = build(per_example=per_example)
    eager = copy.deepcopy(net)
    fast = torch.compile(net, backend=backend, fullgraph=True)
    for _ in range(10):
        torch.testing.assert_close(fast(X), eager(X))
    assert len(graphs) == 1
    for mode in (False, True, False, True):
        torch.testing.assert_close(fast.train(mode)(X), eager.train(mode)(X))
    assert len(graphs) == 2
    assert net.draws == eager.draws == 12


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.skipif(not compiles(), reason="the library compiles on later torch")
@WHOLE_MODULES
def test_a_compiled_module_gives_back_a_loss_too():
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.loss = nn.Linear(4, 4), torch.zeros(())

        def forward(self, x):
            y = self.linear(x)
            self.loss = y.square().mean()
            return y

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    net = l0.L0Module(WithLoss(), 1e-3, seed=0)
    fast = torch.compile(net, backend=backend, fullgraph=True)
    for _ in range(6):
        y = fast(X)
        torch.testing.assert_close(net.module.loss, y.square().mean())
    assert len(graphs) <= 2
    net.module.loss.backward()
    assert net.module.linear.weight.grad is not None
