"""A call that drops changed buffers says so: once for each function, at the user's line."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import l0func as l0

X = l0.random.normal(l0.random.key(10), (8, 4))
IMAGES = l0.random.normal(l0.random.key(11), (4, 3, 5))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return x * self.weight


class Average(nn.Module):
    """An exponential average, replaced at every call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x * self.weight - self.mean


class Codebook(nn.Module):
    """A codebook that follows its inputs through ``.data``, as published ones do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("codes", torch.ones(2, 4))

    def forward(self, x):
        nearest = torch.cdist(x.detach(), self.codes).argmin(1)
        if self.training:
            self.codes.data.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return x * self.weight + self.codes[nearest]


class OwnNorm(nn.Module):
    """BatchNorm's function without BatchNorm's counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, self.weight, training=self.training)


def norm(kind, *size, **settings):
    return nn.Sequential(nn.Identity(), kind(*size, **settings))


CHANGING = [
    (norm(nn.BatchNorm1d, 4), X, "1.running_mean"),
    (norm(nn.BatchNorm1d, 4, momentum=None), X, "1.running_mean"),
    (norm(nn.BatchNorm1d, 4, affine=False), X, "1.running_var"),
    (norm(nn.InstanceNorm1d, 3, track_running_stats=True), IMAGES, "1.running_mean"),
    (nn.utils.spectral_norm(nn.Linear(4, 3)), X, "weight_u"),
    (spectral_norm(nn.Linear(4, 3)), X, "parametrizations.weight.0._u"),
    (Counter(), X, "calls"),
    (Average(), X, "mean"),
    (Codebook(), X, "codes"),
    (OwnNorm(), X, "mean"),
]
STILL = [
    norm(nn.BatchNorm1d, 4).eval(),
    norm(nn.BatchNorm1d, 4, track_running_stats=False),
    nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval()),
    nn.utils.spectral_norm(nn.Linear(4, 3)).eval(),
    Average().eval(),
    Codebook().eval(),
    OwnNorm().eval(),
    nn.LayerNorm(4),
]
KINDS = [name for _, _, name in CHANGING]


def silent(call):
    """The call's result; a warning of dropped buffers is an error."""
    with warnings.catch_warnings():
        # torch.func.jvp warns of torch.jit.
        warnings.filterwarnings("error", "This call changed")
        return call()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("module", "x", "name"), CHANGING, ids=KINDS)
def test_a_plain_call_names_the_buffers_that_it_drops(module, x, name, grad):
    fn, params, buffers = l0.make_functional(module)
    with torch.set_grad_enabled(grad), pytest.warns(UserWarning, match=rf"'{name}'.*with_buffers"):
        fn(params, buffers, x)
    silent(lambda: fn(params, buffers, x))
    silent(lambda: fn.eval()(params, buffers, x))


@pytest.mark.parametrize("module", STILL)
def test_a_call_that_changes_no_buffer_is_silent(module):
    fn, params, buffers = l0.make_functional(module)
    for _ in range(2):
        silent(lambda: fn(params, buffers, X))


@pytest.mark.parametrize(("module", "x", "name"), CHANGING, ids=KINDS)
def test_with_buffers_is_silent(module, x, name):
    fn, params, buffers = l0.make_functional(module)
    _, new = silent(lambda: fn.with_buffers(params, buffers, x))
    assert name in new


def of(module):
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"*weight": l0.element()})
    gates = l0.init_gates(l0.random.key(0), spec)
    return l0.gated(fn, spec), params, gates, buffers


KEY = l0.random.key(1)
KEYS = l0.random.split(KEY, len(X))


def by_rows(apply, params, gates, buffers):
    return l0.per_example(apply)(params, gates, buffers, KEYS, X)


def by_grad(apply, params, gates, buffers):
    def loss(p):
        return apply(p, gates, buffers, KEY, X).sum()

    return torch.func.grad(loss)(params)


def by_jvp(apply, params, gates, buffers):
    def call(p):
        return apply(p, gates, buffers, KEY, X)

    return torch.func.jvp(call, (params,), (params,))


def by_stack(apply, params, gates, buffers):
    stacked = l0.stack([params] * 2), l0.stack([buffers] * 2)

    def loss(p, b):
        return apply(p, gates, b, KEY, X).sum()

    return torch.vmap(torch.func.grad(loss))(*stacked)


def plainly(apply, params, gates, buffers):
    return apply(params, gates, buffers, KEY, X)


def at_test_time(apply, params, gates, buffers):
    return apply(params, gates, buffers, None, X)


ROADS = [plainly, at_test_time, by_rows, by_grad, by_jvp, by_stack]


@pytest.mark.parametrize("road", ROADS)
def test_every_road_tells_at_the_line_of_the_user(road):
    network = of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    with pytest.warns(UserWarning, match=r"'1\.running_mean'") as caught:
        road(*network)
    told = [w for w in caught if "running_mean" in str(w.message)]
    assert [w.filename for w in told] == [__file__]
    lines, first = inspect.getsourcelines(road)
    assert first <= told[0].lineno < first + len(lines)
    silent(lambda: road(*network))


@pytest.mark.parametrize("road", ROADS)
def test_no_road_tells_of_a_module_in_eval_mode(road):
    silent(lambda: road(*of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval())))


def test_a_function_tells_once_for_all_that_is_made_of_it():
    apply, params, gates, buffers = of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    with pytest.warns(UserWarning, match="once for each function"):
        apply.fn(params, buffers, X)
    silent(lambda: plainly(apply, params, gates, buffers))
    silent(lambda: by_rows(apply, params, gates, buffers))
    other = of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    with pytest.warns(UserWarning, match="once for each function"):
        plainly(*other)


@pytest.mark.compiles
def test_a_compiled_call_is_silent_and_whole():
    apply, params, gates, buffers = of(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    compiled = torch.compile(plainly, fullgraph=True, backend="eager")
    y = silent(lambda: compiled(apply, params, gates, buffers))
    with pytest.warns(UserWarning, match="running_mean"):
        expected = plainly(apply, params, gates, buffers)
    assert torch.allclose(y, expected)


def test_what_the_library_calls_itself_is_silent():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    fn, params, buffers = l0.make_functional(net)

    def used():
        groups = l0.unit_groups(net, X)
        spec = l0.gate_spec(params, groups=groups, buffers=buffers)
        gates = {"0": torch.linspace(-4, 4, 5)}
        l0.count_macs(fn, params, buffers, X)
        l0.compact(fn, params, gates, buffers, spec, example_inputs=X)
        module = l0.L0Module(net, 1e-3, seed=0)
        module(X)
        module.compacted(X)

    silent(used)
