"""Keys of shape (B, M, 2): M masks for every row in one call, against a loop over the masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optree
import pytest
import torch
from settings import Setting, setting
from torch import Tensor, nn
from torch.testing import assert_close
from zoo import CASES

import l0func as l0
from l0func import random

B, M = 5, 3
KEYS = random.split(random.split(random.key(8), B), M)


def doubled(s: Setting) -> tuple[Any, ...]:
    """The arguments before the keys, and the inputs, in double precision."""

    def double(x: Any) -> Any:
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    return tuple(
        optree.tree_map(double, part) for part in (s.params, s.gates, s.buffers, s.inputs)
    )


def loop(rows: Any, args: Any, inputs: Any, keys: Tensor = KEYS, **kwargs: Any) -> list[Any]:
    return [rows(*args, keys[:, m], *inputs, **kwargs) for m in range(keys.shape[1])]


def placed(dims: Any, output: Any) -> Any:
    """For each tensor of an output its dimension of rows, counted from the front."""
    if dims is None or isinstance(dims, int):
        return optree.tree_map(lambda x: dims % x.dim(), output)
    return dims


def stacked(outputs: list[Any], dims: Any = 0) -> Any:
    """The outputs for all masks, with the masks behind the rows."""

    def stack(dim: Any, *masks: Tensor) -> Tensor:
        return masks[0] if dim is None else torch.stack(masks, dim + 1)

    where = placed(dims, outputs[0])
    return optree.tree_map(stack, where, *outputs, none_is_leaf=True)


def check(rows: Any, args: Any, inputs: Any, dims: Any = 0) -> Any:
    ours = rows(*args, KEYS, *inputs)
    theirs = stacked(loop(rows, args, inputs), dims)
    # A weight-normed row with all gates closed has no direction: NaN on both roads.
    optree.tree_map(lambda a, b: assert_close(a, b, equal_nan=True), ours, theirs)
    return ours


@pytest.mark.filterwarnings("ignore:This call changed the buffers")
@pytest.mark.parametrize("rules", [None, {"*": l0.element()}], ids=["axes", "entries"])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_all_modules_map_over_masks_as_a_loop_does(case, rules):
    s = setting(case, rules)
    *args, inputs = doubled(s)
    check(s.rows, args, inputs, case.out_dims)


def linear(
    rules: Any = None, sampling: Any = "exact", **mapping: Any
) -> tuple[Any, tuple[Any, ...], Tensor]:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)).double()
    fn, params, buffers = l0.make_functional(net)
    spec = l0.gate_spec(params, rules or {"*.weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec, droprate=0.4, noise=0.5)
    rows = l0.per_example(l0.gated(fn, spec, sampling=sampling), **mapping)
    x = torch.sin(3 * torch.arange(4.0 * B, dtype=torch.float64)).reshape(B, 4)
    return rows, (params, gates, buffers), x


RULES = {
    "entries": {"*.weight": l0.element()},
    "rows": {"*.weight": l0.axis(0)},
    "columns": {"*.weight": l0.axis(1)},
    "blocks": {"*.weight": l0.blocks(0, 2)},
    "whole": {"*.weight": l0.whole()},
    "vectors": {"*.bias": l0.element()},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_every_rule_maps_over_masks_in_any_chunks(rules, chunk_size):
    rows, args, x = linear(rules, chunk_size=chunk_size)
    y = check(rows, args, (x,))
    assert y.shape == (B, M, 2)
    assert (y.var(1) > 0).any()
    whole, _, _ = linear(rules)
    assert_close(y, whole(*args, KEYS, x))


def test_local_reparameterisation_draws_its_sums_for_every_mask():
    rows, args, x = linear({"0.weight": l0.element()}, "local_reparam")
    y = check(rows, args, (x,))
    assert (y.var(1) > 0).any()


def test_a_key_for_all_rows_gives_m_draws_of_one_function():
    rows, args, x = linear()
    keys = random.split(random.key(1), M).expand(B, M, 2)
    y = rows(*args, keys, x[:1].expand(B, 4))
    assert_close(y, y[:1].expand_as(y))
    assert y[0].var(0).max() > 0


def test_the_masks_of_a_row_depend_on_its_own_keys_alone():
    rows, args, x = linear()
    keys = KEYS.clone()
    keys[1, 2] = random.key(77)
    changed = rows(*args, keys, x) != rows(*args, KEYS, x)
    assert changed[1, 2].all()
    changed[1, 2] = False
    assert not changed.any()


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_gates_of_every_row_serve_all_its_masks(chunk_size):
    rows, (params, gates, buffers), x = linear(gate_dims=-1, chunk_size=chunk_size)
    own = {name: torch.stack([g + i / 2 for i in range(B)], dim=-1) for name, g in gates.items()}
    check(rows, (params, own, buffers), (x,))


@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_are_those_of_the_loop(argument):
    rows, args, x = linear()

    def together(params, gates):
        return rows(params, gates, args[2], KEYS, x).square().mean()

    def apart(params, gates):
        outputs = loop(rows, (params, gates, args[2]), (x,))
        return torch.stack(outputs).square().mean()

    ours, theirs = (torch.func.grad(f, argument)(*args[:2]) for f in (together, apart))
    assert_close(ours, theirs)
    leaves = optree.tree_map(lambda t: t.clone().requires_grad_(), args[:2])
    together(*leaves).backward()
    assert_close(optree.tree_map(lambda t: t.grad, leaves)[argument], theirs)


def test_a_map_over_models_takes_several_masks_too():
    rows, (params, gates, buffers), x = linear()
    stacks = {name: torch.stack([g, g + 1]) for name, g in gates.items()}
    mapped = torch.vmap(lambda g: rows(params, g, buffers, KEYS, x))(stacks)
    for i in range(2):
        alone = rows(params, {name: g[i] for name, g in stacks.items()}, buffers, KEYS, x)
        assert_close(mapped[i], alone)


@pytest.mark.compiles
def test_a_step_with_several_masks_compiles_to_the_values_of_eager():
    rows, args, x = linear()

    def step(params: Any, gates: Any, keys: Tensor) -> Any:
        def loss(params: Any, gates: Any) -> Tensor:
            return rows(params, gates, args[2], keys, x).square().sum()

        return torch.func.grad(loss, (0, 1))(params, gates)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*args[:2], KEYS), step(*args[:2], KEYS))


class Outputs(nn.Module):
    """A layer whose result comes in a form of the caller's choice."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(4, 3).double(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self, self.layer(x))


def with_form(form: Any, **mapping: Any) -> tuple[Any, tuple[Any, ...], Tensor]:
    fn, params, buffers = l0.make_functional(Outputs(form))
    spec = l0.gate_spec(params, {"layer.weight": l0.element()})
    gates = l0.init_gates(random.key(0), spec, droprate=0.4)
    x = torch.linspace(-2, 2, 4 * B, dtype=torch.float64).reshape(B, 4)
    return l0.per_example(l0.gated(fn, spec), **mapping), (params, gates, buffers), x


@dataclass
class Result:
    y: Tensor
    kind: str


def test_objects_keep_their_class_and_their_constants():
    rows, args, x = with_form(lambda net, y: Result(y, "logits"))
    ours = rows(*args, KEYS, x)
    assert type(ours) is Result
    assert ours.kind == "logits"
    assert_close(ours.y, torch.stack([r.y for r in loop(rows, args, (x,))], 1))


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (0, (B, M, 7, 3)),
        (1, (7, B, M, 3)),
        (2, (7, 3, B, M)),
        (-1, (7, 3, B, M)),
        (-3, (B, M, 7, 3)),
    ],
)
def test_masks_stand_behind_the_rows_wherever_these_are(dims, shape):
    def turned(net: Any, y: Tensor) -> Tensor:
        return y[:, None].expand(-1, 7, -1).movedim(0, dims)

    rows, args, x = with_form(turned, out_dims=dims)
    y = rows(*args, KEYS, x)
    assert y.shape == shape
    assert_close(y, stacked(loop(rows, args, (x,)), dims))


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_an_output_for_all_rows_comes_once(chunk_size):
    rows, args, x = with_form(
        lambda net, y: (y, net.layer.bias), out_dims=(0, None), chunk_size=chunk_size
    )
    y, bias = rows(*args, KEYS, x)
    assert y.shape == (B, M, 3)
    assert torch.equal(bias, args[0]["layer.bias"])


@pytest.mark.parametrize(
    "form",
    [lambda net, y: (y, y[0]), lambda net, y: (y, net.layer.weight)],
    ids=["rows", "masks"],
)
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_an_output_for_all_rows_that_differs_between_them_is_refused(form, chunk_size):
    rows, args, x = with_form(form, out_dims=(0, None), chunk_size=chunk_size)
    for keys in (KEYS, KEYS[:, :1], KEYS[:, 0]):
        with pytest.raises(ValueError, match=r"must be the same for all rows and masks.*out_dims"):
            rows(*args, keys, x)


def test_values_that_all_rows_share_are_read_and_others_are_refused():
    rows, args, x = with_form(lambda net, y: y * torch.full((2,), 1.5).sum().item())
    check(rows, args, (x,))
    rows, args, x = with_form(lambda net, y: y * y.sum().item())
    with pytest.raises(ValueError, match=r"'item'.*differs from row to row"):
        rows(*args, KEYS, x)


def test_new_tensors_are_written_for_every_mask():
    def written(net: Any, y: Tensor) -> Tensor:
        out = torch.zeros(1, 3, dtype=y.dtype)
        out[:, 1:] = y[:, :2]
        return out.add_(torch.empty(1, 3, dtype=y.dtype).bernoulli_(0.5))

    rows, args, x = with_form(written)
    check(rows, args, (x,))


def normed(**settings: Any) -> tuple[Any, tuple[Any, ...], Tensor]:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, **settings), nn.Linear(6, 2)).double()
    fn, params, buffers = l0.make_functional(net.train())
    spec = l0.gate_spec(params, {"*.weight": l0.axis(0)})
    gates = l0.init_gates(random.key(0), spec, droprate=0.4, noise=0.5)
    x = torch.sin(3 * torch.arange(4.0 * B, dtype=torch.float64)).reshape(B, 4)
    return l0.per_example(l0.gated(fn, spec)), (params, gates, buffers), x


@pytest.mark.filterwarnings("ignore:This call changed the buffers")
@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"track_running_stats": False}])
def test_batch_norm_takes_the_statistics_of_each_mask(settings):
    rows, args, x = normed(**settings)
    before = {name: b.clone() for name, b in args[2].items()}
    check(rows, args, (x,))
    assert_close(args[2], before, rtol=0, atol=0)


def test_running_statistics_that_are_dropped_are_told():
    rows, args, x = normed()
    with pytest.warns(UserWarning, match=r"changed the buffers.*running_mean.*with_buffers"):
        rows(*args, KEYS, x)


@pytest.mark.parametrize("keys", [KEYS, KEYS[:, :1]])
def test_new_buffers_for_several_masks_are_refused(keys):
    rows, args, x = normed()
    with pytest.raises(ValueError, match=r"rows.with_buffers updates .*one key for every row"):
        rows.with_buffers(*args, keys, x)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (KEYS[None], r"shape \(B, 2\); got \(1, 5, 3, 2\).*\(B, M, 2\)"),
        (KEYS[0, 0], r"shape \(B, 2\); got \(2,\)"),
        (KEYS[:, :0], r"M is at least 1; got \(5, 0, 2\)"),
        (KEYS[:0], "0 keys for 5 rows"),
        (KEYS.transpose(0, 1), r"3 keys for 5 rows.*keys.transpose\(0, 1\)"),
        (KEYS[:4], r"4 keys for 5 rows.*\(B, M, 2\)"),
        (KEYS[..., :1], r"A key has shape \(2,\)"),
    ],
)
def test_keys_of_another_shape_are_refused_in_words(keys, message):
    rows, args, x = linear()
    with pytest.raises(ValueError, match=message):
        rows(*args, keys, x)


def test_a_mapped_function_says_how_to_get_several_masks():
    rows, _, _ = linear()
    with pytest.raises(TypeError, match=r"keys of shape \(B, M, 2\)"):
        l0.per_example(rows)


class Counting(nn.Module):
    """Buffers that each call makes anew, the same ones for every row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("table", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count.clone() + 1
        self.table = torch.zeros(3).add(self.table * 2)
        return self.layer(x) * self.table


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_buffers_that_every_row_makes_alike_come_once(chunk_size):
    fn, params, buffers = l0.make_functional(Counting())
    spec = l0.gate_spec(params, {"layer.weight": l0.element()})
    gates, x = l0.init_gates(random.key(0), spec), torch.ones(B, 4)
    rows = l0.per_example(l0.gated(fn, spec), chunk_size=chunk_size)

    def loss(params: Any, scale: float = 1.0) -> Any:
        y, new = rows.with_buffers(params, gates, buffers, KEYS[:, 0], x)
        return scale * y.sum(), new

    expected = {"count": torch.tensor(1), "table": torch.full((3,), 2.0)}
    assert_close(loss(params)[1], expected)
    _, new = torch.func.grad(loss, has_aux=True)(params)
    assert_close(new, expected)
    _, several = torch.vmap(lambda s: loss(params, s))(torch.ones(2))
    assert_close(several, {name: torch.stack([b, b]) for name, b in expected.items()})


def test_equal_outputs_with_a_gradient_of_their_own_are_refused():
    rows, args, x = with_form(lambda net, y: (y, (y * 0).sum((0, 1)).clone()), out_dims=(0, None))
    assert rows(*args, KEYS, x)[1] == 0
    with pytest.raises(ValueError, match="must be the same for all rows"):
        torch.func.grad(lambda p: rows(p, *args[1:], KEYS, x)[1])(args[0])
