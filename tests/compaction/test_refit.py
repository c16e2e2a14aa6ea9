"""Readers of closed units, fitted again: against lstsq, against duplicated units, and refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l0func as l0


def _normal(seed, shape):
    return l0.random.normal(l0.random.key(seed), shape)


def _half_closed(spec):
    """Gates of which every second one is closed."""
    gates = {}
    for gate in spec.gates:
        odd = torch.arange(gate.size).reshape(gate.shape) % 2 == 1
        gates[gate.name] = torch.where(odd, -20.0, 20.0).to(gate.dtype)
    return gates


def _network(module, x):
    fn, params, buffers = l0.make_functional(module.eval())
    spec = l0.gate_spec(params, groups=l0.unit_groups(module, x), buffers=buffers)
    return fn, params, buffers, spec


def _mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 5))


def _lstsq(inputs, outputs):
    """Weights and biases by another solver."""
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([inputs.double(), ones], 1), outputs.double()).solution
    return solution[:-1].mT, solution[-1]


def test_a_linear_reader_gets_the_least_squares_solution():
    module, x = _mlp(), _normal(0, (200, 10))
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0)
    pruned = l0.prune(fitted, gates, spec)
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    weight, bias = _lstsq(hidden[:, ::2], fn(params, buffers, x))
    assert torch.allclose(pruned["2.weight"][:, ::2].double(), weight, atol=1e-5)
    assert torch.allclose(pruned["2.bias"].double(), bias, atol=1e-5)
    assert not pruned["2.weight"][:, 1::2].any()


@pytest.mark.parametrize(
    "layer", [{"padding": 2, "dilation": 2}, {"stride": 2, "padding": (0, 1)}]
)
def test_a_convolution_gets_the_least_squares_solution_over_its_patches(layer):
    torch.manual_seed(0)
    reader = nn.Conv2d(6, 4, 3, **layer)
    module = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), reader)
    x = _normal(1, (20, 2, 9, 9))
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    pruned = l0.prune(l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0), gates, spec)
    hidden = torch.tanh(F.conv2d(x, params["0.weight"], params["0.bias"]))[:, ::2]
    patches = F.unfold(hidden, 3, **({"stride": 1} | layer)).movedim(1, 2).flatten(0, 1)
    outputs = reader(module[:2](x)).detach().movedim(1, -1).flatten(0, -2)
    weight, bias = _lstsq(patches, outputs)
    assert torch.allclose(pruned["2.weight"][:, ::2].flatten(1).double(), weight, atol=1e-4)
    assert torch.allclose(pruned["2.bias"].double(), bias, atol=1e-4)


def test_every_row_with_closed_weights_of_its_own_gets_its_own_solution():
    x = _normal(2, (60, 6))
    fn, params, buffers = l0.make_functional(nn.Linear(6, 3))
    spec = l0.gate_spec(params, {"weight": l0.element()})
    opened = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]]) == 1
    gates = {"weight": torch.where(opened, 20.0, -20.0)}
    fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0)
    outputs = fn(params, buffers, x)
    for row, columns in enumerate(opened):
        weight, bias = _lstsq(x[:, columns], outputs[:, row : row + 1])
        assert torch.allclose(fitted["weight"][row, columns].double(), weight[0], atol=1e-5)
        assert torch.allclose(fitted["bias"][row].double(), bias[0], atol=1e-5)


class _Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(4, 8, num_layers=2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.layer(x)[0])


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


class _InOut(nn.Module):
    """A reader that keeps its weight as (inputs, outputs)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.weight = nn.Parameter(_normal(9, (8, 3)))
        self.bias = nn.Parameter(_normal(8, (3,)))

    def forward(self, x):
        return torch.addmm(self.bias, self.first(x).relu(), self.weight)


class _Left(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.weight = nn.Parameter(_normal(9, (3, 8)))

    def forward(self, x):
        return (self.weight @ self.first(x).relu().mT).mT


class _Einsum(_Left):
    def forward(self, x):
        return torch.einsum("oi,bi->bo", self.weight, self.first(x).relu())


_TWINS = {
    "linear": lambda: (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), (40, 5)),
    "rank 4": lambda: (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), (5, 4, 3, 5)),
    "weight in, out": lambda: (_InOut(), (40, 5)),
    "weight on the left": lambda: (_Left(), (40, 5)),
    "einsum": lambda: (_Einsum(), (40, 5)),
    "conv1d": lambda: (nn.Sequential(nn.Conv1d(2, 8, 3), nn.Conv1d(8, 3, 3, 2, 1)), (30, 2, 9)),
    "conv3d": lambda: (nn.Sequential(nn.Conv3d(2, 8, 2), nn.Conv3d(8, 3, 2)), (30, 2, 4, 4, 4)),
    "transposed": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1, dilation=2),
        ),
        (16, 2, 7, 7),
    ),
    "flattened": lambda: (
        nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
        (100, 2, 5, 5),
    ),
    "several layers": lambda: (
        nn.Sequential(
            nn.Linear(5, 8),
            nn.Tanh(),
            nn.Linear(8, 8),
            nn.Tanh(),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
        ),
        (60, 5),
    ),
    "lstm": lambda: (_Recurrent(nn.LSTM), (30, 5, 4)),
    "gru": lambda: (_Recurrent(nn.GRU), (30, 5, 4)),
    "rnn": lambda: (_Recurrent(nn.RNN), (30, 5, 4)),
    "attention": lambda: (_Attention(), (30, 5, 8)),
}


def _with_twins(params, spec):
    """Parameters in which every unit with an odd number makes what the one before makes."""
    twins = dict(params)
    for plan in spec.parameters:
        tensor = params[plan.path].clone()
        for binding in plan.bindings:
            if not binding.multiplies:
                _copy_from_neighbours(tensor, binding.rule)
        twins[plan.path] = tensor
    return twins


def _copy_from_neighbours(tensor, rule):
    dim = rule.dim % tensor.dim()
    numbers = rule.index(tuple(tensor.shape)).flatten()
    along = tensor.movedim(dim, 0)
    for number in range(1, int(numbers.max()) + 1, 2):
        along[numbers == number] = along[numbers == number - 1]


@pytest.mark.parametrize("kind", _TWINS)
def test_a_closed_unit_with_an_open_twin_is_made_up_for_exactly(kind):
    torch.manual_seed(0)
    module, shape = _TWINS[kind]()
    x = _normal(5, shape)
    fn, params, buffers, spec = _network(module, x)
    params, gates = _with_twins(params, spec), _half_closed(spec)
    whole = fn(params, buffers, x)
    assert not torch.allclose(fn(l0.prune(params, gates, spec), buffers, x), whole, atol=1e-2)
    fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0)
    again = fn(l0.prune(fitted, gates, spec), buffers, x)
    assert torch.allclose(again, whole, atol=1e-3)
    small = l0.compact(fn, fitted, gates, buffers, spec)
    assert torch.allclose(small.fn(small.params, small.buffers, x), whole, atol=1e-3)


def test_the_last_reader_is_the_best_for_what_earlier_readers_leave():
    torch.manual_seed(1)
    layers = [nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4)]
    module, x = nn.Sequential(*layers), _normal(6, (600, 6))
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0)
    first_open = gates | {"0": torch.full((24,), 20.0)}
    alone = l0.refit(fn, params, first_open, buffers, spec, x, ridge=0.0)

    def error(last):
        own = dict(fitted) | {path: last[path] for path in ("4.weight", "4.bias")}
        difference = fn(l0.prune(own, gates, spec), buffers, x) - fn(params, buffers, x)
        return float(difference.square().mean())

    assert error(fitted) < error(alone) < error(params)


def test_the_ridge_of_each_reader_is_the_best_on_rows_that_it_has_not_seen():
    torch.manual_seed(0)
    module, x = (
        nn.Sequential(nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 10)),
        _normal(0, (60, 40)),
    )
    fn, params, buffers, spec = _network(module, x)
    gates, unseen = _half_closed(spec), _normal(1, (2000, 40))

    def error(ridge):
        fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=ridge)
        difference = fn(l0.prune(fitted, gates, spec), buffers, unseen) - fn(
            params, buffers, unseen
        )
        return float(difference.square().mean())

    errors = [error(ridge) for ridge in (1e-6, 1e-4, 1e-2, 0.1, 1.0)]
    assert max(errors) > 2 * min(errors)
    assert error(None) < 1.1 * min(errors)


def test_soft_gates_are_fitted_too():
    module, x = _mlp(), _normal(0, (300, 10))
    fn, params, buffers, spec = _network(module, x)
    gates = {"0": torch.linspace(-4.0, 2.0, 24)}
    fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=0.0)
    values = l0.deterministic_masks(gates, spec)["2.weight"].flatten()
    kept = values != 0
    assert 0 < int(kept.sum()) < 24
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))[:, kept]
    weight, _ = _lstsq(hidden, fn(params, buffers, x))
    pruned = l0.prune(fitted, gates, spec)
    assert torch.allclose(pruned["2.weight"][:, kept].double(), weight, atol=1e-4)


def test_without_closed_units_every_parameter_keeps_its_bits():
    module, x = _mlp(), _normal(0, (50, 10))
    fn, params, buffers, spec = _network(module, x)
    fitted = l0.refit(fn, params, {"0": torch.full((24,), 20.0)}, buffers, spec, x)
    assert all(torch.equal(params[path], fitted[path]) for path in params)


def test_arguments_and_module_keep_their_values():
    module, x = _mlp(), _normal(0, (50, 10))
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    before = {path: tensor.clone() for path, tensor in params.items()}
    l0.refit(fn, params, gates, buffers, spec, x)
    assert all(torch.equal(params[path], before[path]) for path in params)
    assert all(torch.equal(p, before[path]) for path, p in module.named_parameters())


def test_fewer_examples_than_units_still_give_a_fit():
    module, x = _mlp(), _normal(0, (4, 10))
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    for ridge in (0.0, 1e-6):
        fitted = l0.refit(fn, params, gates, buffers, spec, x, ridge=ridge)
        again = fn(l0.prune(fitted, gates, spec), buffers, x)
        assert torch.allclose(again, fn(params, buffers, x), atol=1e-2)
        assert fitted["2.weight"].abs().max() < 10


def test_units_that_are_always_zero_keep_their_weights():
    module, x = _mlp(), _normal(0, (50, 10))
    module[1] = nn.ReLU()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = 0.0, -1.0
    fn, params, buffers, spec = _network(module, x)
    fitted = l0.refit(fn, params, _half_closed(spec), buffers, spec, x, ridge=0.0)
    assert torch.allclose(fitted["2.weight"][:, 0], params["2.weight"][:, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_keep_their_dtype(dtype):
    module, x = _mlp().to(dtype), _normal(0, (100, 10)).to(dtype)
    fn, params, buffers, spec = _network(module, x)
    gates = _half_closed(spec)
    fitted = l0.refit(fn, params, gates, buffers, spec, x)
    assert all(t.dtype == dtype for t in fitted.values())
    whole = fn(params, buffers, x).float()

    def error(own):
        return (fn(l0.prune(own, gates, spec), buffers, x).float() - whole).norm()

    assert error(fitted) < 0.5 * error(params)


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        penalty = self.second.weight.square().sum()
        return self.second(self.first(x).relu()) + penalty


def test_a_reader_that_is_read_in_another_way_stays_and_is_named():
    module, x = _Tied(), _normal(0, (30, 4))
    fn, params, buffers = l0.make_functional(module.eval())
    hidden = l0.group({"second.weight": l0.axis(1)}, owns={"first.weight": l0.axis(0)})
    spec = l0.gate_spec(params, groups={"hidden": hidden})
    with pytest.warns(UserWarning, match=r"'second\.weight' as it is.*another way"):
        fitted = l0.refit(fn, params, _half_closed(spec), buffers, spec, x)
    assert torch.equal(fitted["second.weight"], params["second.weight"])


def test_a_kernel_in_groups_stays_and_is_named():
    module = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2))
    x = _normal(0, (8, 2, 7, 7))
    fn, params, buffers = l0.make_functional(module.eval())
    spec = l0.gate_spec(params, {"2.weight": l0.axis(1)})
    with pytest.warns(UserWarning, match=r"'2\.weight' as it is.*groups"):
        l0.refit(fn, params, _half_closed(spec), buffers, spec, x)


class _Experts(nn.Module):
    """Every expert reads its own hidden units, with a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(_normal(1, (2, 4, 6)))
        self.second = nn.Parameter(_normal(2, (2, 6, 3)))

    def forward(self, x):
        return torch.bmm(torch.bmm(x.expand(2, -1, -1), self.first).relu(), self.second).sum(0)


def test_matrices_of_experts_stay_and_are_named():
    module, x = _Experts(), _normal(0, (30, 4))
    fn, params, buffers = l0.make_functional(module.eval())
    hidden = l0.group({"second": l0.axis(1)}, owns={"first": l0.axis(2)})
    spec = l0.gate_spec(params, groups={"hidden": hidden})
    with pytest.warns(UserWarning, match=r"'second' as it is.*groups"):
        fitted = l0.refit(fn, params, _half_closed(spec), buffers, spec, x)
    assert torch.equal(fitted["second"], params["second"])


class TestWrongUses:
    def _refit(self, x=None, module=None, **more):
        module = module or _mlp().eval()
        examples = _normal(0, (20, 10))
        fn, params, buffers = l0.make_functional(module)
        groups = l0.unit_groups(_mlp(), examples)
        spec = l0.gate_spec(params, groups=groups)
        examples = examples if x is None else x
        return l0.refit(fn, params, _half_closed(spec), buffers, spec, examples, **more)

    @pytest.mark.parametrize(
        ("ridge", "error"),
        [(-1.0, ValueError), (float("nan"), ValueError), (True, TypeError), ("1", TypeError)],
    )
    def test_a_ridge_is_a_number_at_least_0(self, ridge, error):
        with pytest.raises(error, match="ridge is"):
            self._refit(ridge=ridge)

    def test_inputs_that_forward_does_not_take_are_named(self):
        with pytest.raises(TypeError, match="orward"):
            self._refit(x=(_normal(0, (20, 10)), _normal(0, (20, 10))))

    def test_a_random_network_is_refused(self):
        module = nn.Sequential(
            nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 5), nn.Dropout()
        ).train()
        with pytest.raises(ValueError, match="key"):
            self._refit(module=module)

    def test_outputs_that_are_not_finite_are_named(self):
        with pytest.raises(ValueError, match=r"'2\.weight'.*not finite"):
            self._refit(x=torch.full((20, 10), float("nan")))
