"""Outputs of fitted readers that later calls take again: against a fit that computes each one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0
from l0func.compaction.replay import Replay


def _normal(seed, shape):
    return l0.random.normal(l0.random.key(seed), shape)


class _Loops(nn.Module):
    """Two maps that are used many times, with readers before, between and after them."""

    def __init__(self):
        super().__init__()
        self.first, self.between, self.last = nn.Linear(7, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.loop, self.again = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self._loop(self.loop, self.first(x))
        return self.last(self._loop(self.again, self.between(x)))

    def _loop(self, layer, x):
        state = x
        for _ in range(3):
            state = (x + layer(state)).tanh()
        return state


class _InPlace(_Loops):
    """Later operations write into the outputs of readers."""

    def forward(self, x):
        x = self._loop(self.loop, self.first(x).relu_())
        return self.last(self._loop(self.again, self.between(x).mul_(0.5)))

    def _loop(self, layer, x):
        state = x
        for _ in range(3):
            state = layer(state).add_(x).tanh_()
        return state


class _Inside(_Loops):
    """A reader is used once, while a loop runs."""

    def forward(self, x):
        x = self.first(x)
        state = self.loop(x).tanh()
        state = self.loop(x + self.between(state)).tanh()
        return self.last(self._loop(self.again, state))


class _Interleaved(_Loops):
    """Two loops take turns."""

    def forward(self, x):
        x = state = self.first(x)
        for _ in range(3):
            state = (x + self.again(self.loop(state).tanh())).tanh()
        return self.last(self.between(state))


class _EarlyBias(_Loops):
    """A reader's bias is added where an earlier reader sees it."""

    def forward(self, x):
        x = self._loop(self.loop, self.first(x) + self.between.bias)
        return self.last(self._loop(self.again, self.between(x)))


class _BothWays(_Loops):
    """A reader's weight is read transposed before, by another product."""

    def forward(self, x):
        x = self._loop(self.loop, self.first(x) @ self.between.weight)
        return self.last(self._loop(self.again, self.between(x)))


class _AsInput(_Loops):
    """A reader's weight is an earlier product's input."""

    def forward(self, x):
        x = self.first(x) + self.loop(self.between.weight).sum(0)
        return self.last(self._loop(self.again, self.between(x)))


_MODULES = [_Loops, _InPlace, _Inside, _Interleaved, _EarlyBias, _BothWays, _AsInput]


def _refit(module, x, ridge=None):
    """Parameters with every reader fitted, with every second input closed."""
    fn, params, buffers = l0.make_functional(module)
    gated = {path: l0.axis(1) for path in params if path.endswith("weight")}
    spec = l0.gate_spec(params, gated)
    odd = {gate.name: torch.arange(gate.size) % 2 == 1 for gate in spec.gates}
    gates = {name: torch.where(closed, -20.0, 20.0) for name, closed in odd.items()}
    return l0.refit(fn, params, gates, buffers, spec, x, ridge=ridge)


def _computed(self, matrix, run):
    return run()


@pytest.mark.filterwarnings("ignore:refit leaves")
@pytest.mark.parametrize("kind", _MODULES)
def test_a_fit_that_takes_outputs_again_has_the_bits_of_one_that_computes_them(kind, monkeypatch):
    torch.manual_seed(0)
    module, x = kind(), _normal(0, (100, 7))
    fitted = _refit(module, x)
    monkeypatch.setattr(Replay, "output", _computed)
    computed = _refit(module, x)
    assert not torch.equal(fitted["last.weight"], module.last.weight)
    assert all(torch.equal(fitted[path], computed[path]) for path in computed)


def test_a_reader_with_a_weight_that_is_another_products_input_stays_and_is_named():
    module = _AsInput()
    with pytest.warns(UserWarning, match=r"'between\.weight' as it is.*another way"):
        fitted = _refit(module, _normal(0, (100, 7)))
    assert torch.equal(fitted["between.weight"], module.between.weight)


class _Slices(_Loops):
    """Two parts of a reader's weight, each a reader; the second begins in the first or behind."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, x):
        h = self.first(x)
        parts = [self.between.weight[:7], self.between.weight[self.start :]]
        x = sum(F.linear(h, part).mean(1, keepdim=True) for part in parts)
        return self.last(self._loop(self.again, x.expand_as(h)))


@pytest.mark.parametrize("kind", [_BothWays, lambda: _Slices(5)], ids=["transposed", "slices"])
def test_a_weight_with_an_entry_in_two_readers_stays_and_is_named(kind):
    torch.manual_seed(0)
    module = kind()
    with pytest.warns(UserWarning, match=r"'between\.weight' as it is.*in two ways"):
        fitted = _refit(module, _normal(0, (100, 7)))
    assert torch.equal(fitted["between.weight"], module.between.weight)


def test_parts_of_a_weight_without_a_common_entry_are_fitted_apart():
    torch.manual_seed(0)
    module = _Slices(7)
    fitted = _refit(module, _normal(0, (100, 7)))
    changed = fitted["between.weight"] != module.between.weight
    assert changed[:7].any()
    assert changed[7:].any()


def test_a_fitted_reader_before_two_loops_is_computed_once(monkeypatch):
    runs, calls = [], []
    output = Replay.output

    def counted(self, matrix, run):
        def noted():
            runs.append(matrix.path)
            return run()

        calls.append(matrix.path)
        return output(self, matrix, noted)

    monkeypatch.setattr(Replay, "output", counted)
    _refit(_Loops(), _normal(0, (100, 7)), ridge=1e-3)
    # Three calls of the network: one for each loop, and one for the rest.
    assert (calls.count("first.weight"), runs.count("first.weight")) == (3, 1)


@pytest.mark.parametrize("layer", [nn.ReLU, nn.Hardswish, nn.ELU])
def test_a_layer_that_works_in_place_changes_no_bit(layer):
    def fitted(inplace):
        torch.manual_seed(0)
        layers = [nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 16), layer(inplace=inplace)]
        return _refit(nn.Sequential(*layers, nn.Linear(16, 3)), _normal(0, (100, 7)))

    own, written = fitted(False), fitted(True)
    assert all(torch.equal(own[path], written[path]) for path in own)
