"""The guard against reads of the original: under transforms, in copies, and where it is silent."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import close
from device import RELEASE
from holding import BOUND, Net
from holding_originals import Kernel, closure_over_the_module, helper_object
from sampled import one_in, sampled
from torch import Tensor, nn

import l0func as l0

X = torch.linspace(-1, 1, 6).reshape(2, 3)
READS = "reads 'scale' of the module"


def closed() -> Net:
    return Net(closure_over_the_module)


def plain(net: Any) -> None:
    net.step = net.times


def spec_and_gates(params: dict[str, Tensor]) -> tuple[l0.GateSpec, dict[str, Tensor]]:
    spec = l0.gate_spec(params)
    return spec, l0.init_gates(l0.random.key(0), spec)


def by_grad(fn: Any, params: Any, buffers: Any) -> Any:
    return torch.func.grad(lambda p: fn(p, buffers, X).sum())(params)


def by_jvp(fn: Any, params: Any, buffers: Any) -> Any:
    return torch.func.jvp(lambda p: fn(p, buffers, X), (params,), (params,))


def by_vmap(fn: Any, params: Any, buffers: Any) -> Any:
    stacked = {path: torch.stack([p, p]) for path, p in params.items()}
    return torch.vmap(lambda p: fn(p, buffers, X))(stacked)


def by_vmap_over_inputs(fn: Any, params: Any, buffers: Any) -> Any:
    return torch.vmap(lambda x: fn(params, buffers, x))(X)


def by_gated(fn: Any, params: Any, buffers: Any) -> Any:
    spec, gates = spec_and_gates(params)
    return l0.gated(fn, spec)(params, gates, buffers, l0.random.key(1), X)


def by_gated_without_a_key(fn: Any, params: Any, buffers: Any) -> Any:
    spec, gates = spec_and_gates(params)
    return l0.gated(fn, spec)(params, gates, buffers, None, X)


def by_rows(fn: Any, params: Any, buffers: Any) -> Any:
    spec, gates = spec_and_gates(params)
    keys = l0.random.split(l0.random.key(1), len(X))
    return l0.per_example(l0.gated(fn, spec))(params, gates, buffers, keys, X)


def by_module(fn: Any, params: Any, buffers: Any) -> Any:
    return fn.module(params, buffers)(X)


def by_to_module(fn: Any, params: Any, buffers: Any) -> Any:
    return l0.to_module(fn, params, buffers)(X)


def by_eval(fn: Any, params: Any, buffers: Any) -> Any:
    return fn.eval()(params, buffers, X)


def by_deepcopy(fn: Any, params: Any, buffers: Any) -> Any:
    return copy.deepcopy(fn)(params, buffers, X)


def by_copied_module(fn: Any, params: Any, buffers: Any) -> Any:
    return copy.deepcopy(fn.module(params, buffers))(X)


def by_checkpoint(fn: Any, params: Any, buffers: Any) -> Any:
    run = torch.utils.checkpoint.checkpoint
    return run(lambda x: fn(params, buffers, x), X.clone().requires_grad_(), use_reentrant=False)


def by_units(fn: Any, params: Any, buffers: Any) -> Any:
    return l0.unit_groups(fn.module(params, buffers), X)


ROADS = [
    *(by_grad, by_jvp, by_vmap, by_vmap_over_inputs, by_gated, by_gated_without_a_key),
    *(by_rows, by_module, by_to_module, by_eval, by_deepcopy, by_copied_module, by_checkpoint),
    by_units,
]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("place", [closure_over_the_module, helper_object])
def test_a_read_is_refused_on_every_road(road: Callable[..., Any], place: Any):
    net = Net(place)
    fn, params, buffers = l0.make_functional(net)
    with pytest.raises(ValueError, match=READS):
        road(fn, params, buffers)


@pytest.mark.parametrize("road", ROADS[:-1])
def test_a_module_without_such_reads_passes_on_every_road(road: Callable[..., Any]):
    net = Net(plain)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    road(*l0.make_functional(net))
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


def test_a_pickled_function_refuses_reads_of_what_was_pickled_with_it():
    net = Net(helper_object)
    fn, params, buffers = l0.make_functional(net)
    twin = pickle.loads(pickle.dumps(fn))
    del net, fn
    gc.collect()
    with pytest.raises(ValueError, match=f"{READS}.*attribute 'step'"):
        twin(params, buffers, X)
    module = pickle.loads(pickle.dumps(twin.module(params, buffers)))
    with pytest.raises(ValueError, match=READS):
        module(X)


class Trained(nn.Module):
    """Holds its own optimizer, a trainer and a cache of originals, and reads none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.optimizer = torch.optim.Adam(self.parameters())
        self.trainer = Kernel(self)
        self.log = lambda: self.fc.weight.sum()
        self.register_full_backward_hook(lambda *_: self.optimizer and None)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_to_hold_an_original_is_no_error():
    net = Trained()
    fn, params, buffers = l0.make_functional(net)
    zero = {path: torch.zeros_like(p) for path, p in params.items()}
    assert not fn(zero, buffers, X).any()
    close(fn.module(params, buffers)(X), net.fc(X))
    inputs = X.clone().requires_grad_()
    fn(params, buffers, inputs).sum().backward()
    assert inputs.grad is not None


def test_a_shape_or_a_type_may_be_asked_of_an_original():
    net = Net(plain)
    net.step = lambda x: x.to(net.scale.dtype).reshape(-1, net.scale.shape[0], len(net.fc.weight))
    fn, params, buffers = l0.make_functional(net)
    assert fn(params, buffers, torch.ones(9)).shape == (1, 3, 3)


def test_what_the_caller_passes_in_is_no_original():
    net = closed()
    fn, params, buffers = l0.make_functional(net)
    live = dict(net.named_parameters())
    close(fn(live, buffers, X), net(X))
    (grad,) = torch.autograd.grad(fn(live, buffers, X).sum(), [net.scale])
    close(grad, X.sum(0))
    spec = l0.gate_spec(params, {"fc.*": l0.axis(0)})
    gates = l0.init_gates(l0.random.key(0), spec)
    close(l0.gated(fn, spec)(live, gates, buffers, None, X), net(X))
    everywhere, closed_gates = spec_and_gates(params)
    with pytest.raises(ValueError, match=READS):
        l0.gated(fn, everywhere)(live, closed_gates, buffers, None, X)


def test_a_weight_that_torch_computes_in_a_hook_is_no_read_and_leaves_the_module_plain():
    net = nn.utils.spectral_norm(nn.Linear(3, 3)).eval()
    fn, params, buffers = l0.make_functional(net)
    close(fn(params, buffers, X), net(X))
    module = fn.module(params, buffers)
    assert len(module._forward_pre_hooks) == len(net._forward_pre_hooks)


def test_tensors_without_memory_are_no_views_of_each_other():
    with torch.device("meta"):
        net = Net(plain)
        net.table = torch.ones(3)
        net.step = net.table.mul
    fn, params, buffers = l0.make_functional(net)
    assert fn(params, buffers, X.to("meta")).shape == (2, 3)


def test_an_original_as_an_input_is_read():
    net = Net(plain)
    fn, params, buffers = l0.make_functional(net)
    close(fn(params, buffers, net.fc.weight), net(net.fc.weight))


def test_neither_function_nor_guard_keeps_the_original():
    net = closed()
    fn, _, _ = l0.make_functional(Net(plain))
    alive = weakref.ref(net.fc.weight)
    del net
    gc.collect()
    assert alive() is None
    assert fn.originals.by_id == {}


def test_the_number_of_a_dead_tensor_is_no_alarm():
    net = Net(plain)
    fn, params, buffers = l0.make_functional(net)
    known = set(fn.originals.by_id)
    del net
    gc.collect()
    for _ in range(50):
        others = {path: p.clone() for path, p in params.items()}
        fn(others, {path: b.clone() for path, b in buffers.items()}, X.clone())
    assert known


def test_a_backward_hook_that_reads_an_original_is_refused():
    net = Net(plain)
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] * net.scale,))
    fn, params, buffers = l0.make_functional(net)
    inputs = X.clone().requires_grad_()
    with pytest.raises(ValueError, match=f"{READS}.*'_backward_hooks'"):
        fn(params, buffers, inputs).sum().backward()


@pytest.mark.parametrize(
    "place", [closure_over_the_module, BOUND["partial_with_a_weak_reference"]]
)
def test_a_copy_of_the_module_refuses_reads_of_the_first_one_where_it_is_told_of_it(place: Any):
    net = Net(place)
    first, params, buffers = l0.make_functional(net)
    twin = l0.make_functional(copy.deepcopy(net)).fn
    assert twin(params, buffers, X).any()
    with pytest.raises(ValueError, match=r"reads '.*' of the module.*attribute 'step'"):
        twin.guarding(first.originals)(params, buffers, X)


def test_hooks_that_the_original_gets_later_are_its_own():
    net = Net(plain)
    fn, params, buffers = l0.make_functional(net)
    net.register_forward_hook(lambda m, args, y: y * 0)
    net.fc.register_forward_pre_hook(lambda m, args: 1 / 0)
    assert fn(params, buffers, X).any()
    module = fn.module(params, buffers)
    module.register_forward_hook(lambda m, args, y: y * 0)
    assert fn(params, buffers, X).any()


class Shared(nn.Module):
    """Two submodules that talk through one list."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.fc = nn.Linear(3, 3)
        self.fc.seen = self.seen
        self.fc.register_forward_hook(lambda m, args, y: m.seen.append(y) or None)

    def forward(self, x: Tensor) -> Tensor:
        self.fc(x)
        return self.seen[-1]


def test_a_container_that_two_modules_share_is_one_container_in_a_call():
    net = Shared()
    fn, params, buffers = l0.make_functional(net)
    close(fn(params, buffers, X), net.fc(X))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(l0.make_functional(Inner()).fn)))
    assert twin({}, {}, X) == [1]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a: list[Any] = []
        self.b = {"a": self.a, "cycle": None}
        self.b["cycle"] = self.b

    def forward(self, x: Tensor) -> list[Any]:
        self.a.append(1)
        return self.b["cycle"]["a"]


GLOBAL = Net(plain)


def from_a_global(x: Tensor) -> Tensor:
    return x * GLOBAL.scale


def test_a_global_variable_is_named():
    place = Net(plain)
    fn, params, buffers = l0.make_functional(GLOBAL)
    assert fn(params, buffers, X).any()
    GLOBAL.step = from_a_global
    fn = l0.make_functional(GLOBAL).fn
    with pytest.raises(ValueError, match=f"{READS}.*the global variable 'GLOBAL'"):
        fn(params, buffers, X)
    del place


@pytest.mark.compiles
def test_a_compiled_call_refuses_too():
    # Behind torch's limit of recompilations it compiles inner frames, with warnings of its own.
    torch._dynamo.reset()
    fn, params, buffers = l0.make_functional(closed())
    run = torch.compile(fn, backend="eager")
    with pytest.raises(ValueError, match=READS):
        run(params, buffers, X)
    whole = torch.compile(fn, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=READS):
        whole(params, buffers, X)


@pytest.mark.compiles
def test_a_compiled_closure_in_an_eager_call_is_refused():
    net = Net(plain)
    net.step = torch.compile(lambda x: x * net.scale, backend="eager")
    fn, params, buffers = l0.make_functional(net)
    for _ in range(2):
        with pytest.raises(ValueError, match=READS):
            fn(params, buffers, X)


@pytest.mark.compiles
def test_a_guarded_call_compiles_once():
    torch._dynamo.reset()
    net = Trained()
    net._backward_hooks.clear()
    fn, params, buffers = l0.make_functional(net)
    seen: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph

    run = torch.compile(fn, backend=backend, fullgraph=True)
    for i in range(4):
        other = {path: p * i for path, p in params.items()}
        close(run(other, buffers, X + i), fn(other, buffers, X + i))
    assert len(seen) == 1


OWN_METHOD_IN_A_PARTIAL = pytest.mark.xfail(
    (2, 9) <= RELEASE <= (2, 11),
    reason="the compilers of torch 2.9 and 2.11 do not follow it",
    strict=True,
)
FOLLOWED = [
    pytest.param(place, marks=[OWN_METHOD_IN_A_PARTIAL] * (name == "partial_in_forward"), id=name)
    for name, place in BOUND.items()
    if not name.startswith(("weak_", "namespace"))
]


@pytest.mark.compiles
@pytest.mark.parametrize("place", sampled(FOLLOWED, one_in(3)))
def test_what_a_place_holds_compiles_as_a_whole(place: Any):
    torch._dynamo.reset()
    fn, params, buffers = l0.make_functional(Net(place))
    run = torch.compile(fn, backend="eager", fullgraph=True)
    zero = {path: torch.zeros_like(p) for path, p in params.items()}
    for values in (params, zero):
        close(run(values, buffers, X), fn(values, buffers, X))


@pytest.mark.skipif(RELEASE < (2, 9), reason="torch 2.6 exports no module that a call makes")
@pytest.mark.parametrize("name", ["method", "weak_method", "data_class", "partial_of_a_method"])
def test_what_a_place_holds_is_exported(name: str):
    net = Net(BOUND[name])
    fn, params, buffers = l0.make_functional(net)

    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fn(params, buffers, x)

    program = torch.export.export(Called(), (X,), strict=False)
    close(program.module()(X), net(X))
