"""Law 9: everything composes. And law 8: saved, loaded and continued equals uninterrupted."""

from __future__ import annotations

import io
from typing import Any

import optree
import pytest
import torch
from comparing import close, equal
from sampled import among, one_in, sampled
from settings import KEYS, Setting, setting
from torch import Tensor
from torch.utils import _pytree as pytree
from zoo import BY_NAME, CASES, Case

import l0func as l0
from l0func import random

COMPILED = [
    "mlp",
    "mlp_dropout",
    "functions",
    "cnn_train",
    "encoder",
    "words",
    "tied",
    "two_inputs",
    "norms",
]
# EmbeddingBag apart, what torch gives jvp and double backward to; the recurrent cases through
# per_example only.
SMOOTH = [
    "mlp",
    "mlp_dropout",
    "cnn",
    "cnn_train",
    "lstm",
    "lstm_dropout",
    "gru",
    "attention",
    "encoder",
    "tied",
    "bilinear",
]


def total(output: Any) -> Tensor:
    return sum(
        (x.double() ** 2).sum() for x in pytree.tree_flatten(output)[0] if isinstance(x, Tensor)
    )


def objective(s: Setting) -> Any:
    def loss(params: Any, gates: Any, key: Tensor, lam: Tensor) -> Tensor:
        keys = random.split(key, 5)
        output, _ = s.rows.with_buffers(params, gates, s.buffers, keys, *s.inputs)
        return total(output) + l0.penalty(params, gates, s.spec, lam, weight_decay=0.1)

    return loss


LAM = torch.tensor(0.01)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "compiler"),
    [
        *sampled(
            [pytest.param(name, "aot_eager") for name in COMPILED],
            among("cnn_train"),
        ),
        pytest.param("mlp", "inductor", marks=pytest.mark.slow),
    ],
)
def test_a_whole_step_compiles_once_to_the_values_of_eager(name, compiler):
    s = setting(BY_NAME[name])

    def loss(params: Any, gates: Any, keys: Tensor) -> tuple[Tensor, Any]:
        output, buffers = s.rows.with_buffers(params, gates, s.buffers, keys, *s.inputs)
        return total(output) + l0.penalty(params, gates, s.spec, LAM, weight_decay=0.1), buffers

    def step(params: Any, gates: Any, key: Tensor, number: Tensor) -> tuple[Any, Any]:
        keys = random.split(random.fold_in(key, number), 5)
        return torch.func.grad(loss, (0, 1), has_aux=True)(params, gates, keys)

    torch._dynamo.reset()
    frames: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        frames.append(graph)
        return torch._dynamo.lookup_backend(compiler)(graph, example)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for number in range(3):
        arguments = (s.params, s.gates, random.key(4), torch.tensor(number))
        ours, eager = compiled(*arguments), step(*arguments)
        optree.tree_map(
            lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5), ours, eager
        )
    assert len(frames) == 1


@pytest.mark.compiles
@pytest.mark.parametrize(
    "module",
    sampled(
        [torch.nn.GRUCell(3, 2), torch.nn.LSTM(3, 2), torch.nn.MultiheadAttention(4, 2)], one_in(3)
    ),
    ids=str,
)
def test_layers_of_many_products_compile_under_a_vmap_of_ones_own(module):
    x = torch.randn(5, 3, 4 if isinstance(module, torch.nn.MultiheadAttention) else 3)
    fn, params, buffers = l0.make_functional(module)
    spec = l0.gate_spec(params, {"*": l0.element()})
    gates, apply = l0.init_gates(random.key(0), spec), l0.gated(fn, spec)

    def outputs(params: Any, gates: Any) -> Tensor:
        def row(key: Tensor, x: Tensor) -> Tensor:
            output = apply(params, gates, buffers, key, *([x] * 3 if x.shape[-1] == 4 else [x]))
            return output if isinstance(output, Tensor) else output[0]

        return torch.vmap(row)(random.split(random.key(1), 5), x)

    torch._dynamo.reset()
    ours = torch.compile(outputs, fullgraph=True, backend="aot_eager")(params, gates)
    torch.testing.assert_close(ours, outputs(params, gates))


@pytest.mark.compiles
@pytest.mark.slow
def test_one_compilation_serves_many_steps_and_is_the_same_in_machine_code():
    s = setting(BY_NAME["mlp"])
    torch._dynamo.reset()
    frames: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        frames.append(graph)
        return torch._inductor.compile(graph, example)

    masks = torch.compile(
        lambda key, n: l0.sample_masks(random.fold_in(key, n), s.gates, s.spec),
        fullgraph=True,
        backend=backend,
    )
    for number in range(4):
        n = torch.tensor(number)
        ours, eager = (
            masks(random.key(2), n),
            l0.sample_masks(random.fold_in(random.key(2), n), s.gates, s.spec),
        )
        for path, mask in ours.items():
            torch.testing.assert_close(mask, eager[path], rtol=5e-7, atol=5e-7)
            assert torch.equal(mask == 0, eager[path] == 0)
            assert torch.equal(mask == 1, eager[path] == 1)
    assert len(frames) == 1


@pytest.mark.compiles
def test_a_compiled_step_takes_batches_and_layers_of_other_sizes():
    def step(rows: Any, params: Any, gates: Any, keys: Tensor, x: Tensor) -> Any:
        return torch.func.grad(lambda p, g: rows(p, g, {}, keys, x).sin().sum(), (0, 1))(
            params, gates
        )

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for batch, out, into in ((4, 3, 5), (6, 3, 5), (7, 4, 6)):
        fn, params, _ = l0.make_functional(torch.nn.Linear(into, out))
        spec = l0.gate_spec(params)
        rows = l0.per_example(l0.gated(fn, spec))
        arguments = (
            params,
            l0.init_gates(random.key(1), spec),
            random.split(random.key(2), batch),
            torch.randn(batch, into),
        )
        ours, eager = compiled(rows, *arguments), step(rows, *arguments)
        optree.tree_map(
            lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5), ours, eager
        )


@pytest.mark.parametrize("name", SMOOTH)
def test_forward_mode_agrees_with_reverse_mode(name):
    s = setting(BY_NAME[name])
    loss = objective(s)
    direction = optree.tree_map(lambda g: torch.ones_like(g), s.gates)
    _, tangent = torch.func.jvp(
        lambda g: loss(s.params, g, KEYS[0], LAM), (s.gates,), (direction,)
    )
    gradient = torch.func.grad(loss, 1)(s.params, s.gates, KEYS[0], LAM)
    torch.testing.assert_close(
        tangent, sum(g.double().sum() for g in gradient.values()), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", SMOOTH)
def test_hessian_products_are_differences_of_gradients(name):
    s = setting(BY_NAME[name])
    # Biases away from 0: behind closed gates a unit would stand exactly on ReLU's kink, which no
    # difference sees.
    shifted = {
        name: p + 0.1 * torch.cos(torch.arange(p.numel())).reshape(p.shape)
        for name, p in s.params.items()
    }
    params, inputs = optree.tree_map(
        lambda x: x.double() if isinstance(x, Tensor) else x, (shifted, s.inputs)
    )
    s = s._replace(
        params=params,
        inputs=inputs,
        buffers={n: b.double() if b.is_floating_point() else b for n, b in s.buffers.items()},
    )
    loss = objective(s)

    def gradient(params: Any) -> Any:
        return torch.func.grad(loss)(params, s.gates, KEYS[0], LAM)

    step = 1e-6
    direction = optree.tree_map(
        lambda p: torch.sin(torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape), params
    )
    _, product = torch.func.vjp(gradient, params)
    (ours,) = product(direction)
    moved = [
        gradient(optree.tree_map(lambda p, d, h=h: p + h * d, params, direction))
        for h in (step, -step)
    ]
    difference = optree.tree_map(lambda a, b: (a - b) / (2 * step), *moved)
    optree.tree_map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4), ours, difference
    )


@pytest.mark.parametrize("case", [c for c in CASES if not c.name.endswith("_train")], ids=repr)
def test_models_gates_keys_and_lambdas_map_as_a_loop_over_them(case: Case):
    s = setting(case)
    loss = objective(s)
    n = 3

    def stack(tree: Any) -> Any:
        return optree.tree_map(lambda x: torch.stack([x * (1 + 0.1 * i) for i in range(n)]), tree)

    params, gates, lams, keys = (
        stack(s.params),
        stack(s.gates),
        torch.rand(n),
        random.split(random.key(9), n),
    )
    mapped = torch.vmap(loss)(params, gates, keys, lams)
    for i in range(n):
        one = optree.tree_map(lambda x, i=i: x[i], (params, gates))
        # A weight-normed row whose every gate is closed has no direction: NaN on both roads.
        torch.testing.assert_close(
            mapped[i], loss(*one, keys[i], lams[i]), rtol=1e-5, atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "residual", "words", "tied", "norms", "two_inputs"]
)
def test_one_mask_for_a_batch_maps_over_models_too(name):
    s = setting(BY_NAME[name])
    gates = {name: torch.stack([g, g + 1]) for name, g in s.gates.items()}
    for key in (None, KEYS[0]):
        mapped = torch.vmap(
            lambda g, key=key: total(s.apply(s.params, g, s.buffers, key, *s.inputs))
        )(gates)
        for i in range(2):
            alone = s.apply(
                s.params, {name: g[i] for name, g in gates.items()}, s.buffers, key, *s.inputs
            )
            torch.testing.assert_close(mapped[i], total(alone), rtol=1e-5, atol=1e-5)


def test_a_sweep_of_lambda_is_one_mapped_run():
    s = setting(BY_NAME["mlp"])
    loss = objective(s)
    lams = torch.tensor([0.0, 1.0, 10.0])
    gates = {name: g.expand(3, *g.shape) for name, g in s.gates.items()}
    for i in range(30):
        slopes = torch.vmap(torch.func.grad(loss, 1), (None, 0, None, 0))(
            s.params, gates, random.key(i), lams
        )
        gates = {name: g - 0.1 * slopes[name] for name, g in gates.items()}
    density = torch.vmap(lambda g: l0.expected_l0(g, s.spec))(gates)
    assert density[0] > density[1] > density[2]


# Law 8.


def _train(state: dict[str, Any], s: Setting, first: int, last: int) -> dict[str, Any]:
    """Steps first to last of plain gradient descent; the step's number is all that its draws
    depend on.
    """
    loss = objective(s)
    params, gates, buffers = state["params"], state["gates"], state["buffers"]
    for number in range(first, last):
        key = random.fold_in(state["key"], number)
        slopes = torch.func.grad(loss, (0, 1))(params, gates, key, LAM)
        params, gates = optree.tree_map(lambda x, g: x - 0.01 * g, (params, gates), slopes)
        _, buffers = s.rows.with_buffers(params, gates, buffers, random.split(key, 5), *s.inputs)
    return {
        "params": params,
        "gates": gates,
        "buffers": buffers,
        "key": state["key"],
        "spec": state["spec"],
    }


@pytest.mark.parametrize("name", ["mlp_dropout", "cnn_train"])
def test_saved_loaded_and_continued_equals_uninterrupted(name):
    s = setting(BY_NAME[name])
    start = {
        "params": s.params,
        "gates": s.gates,
        "buffers": s.buffers,
        "key": random.key(1),
        "spec": s.spec.to_json(),
    }
    whole = _train(start, s, 0, 6)
    file = io.BytesIO()
    torch.save(_train(start, s, 0, 3), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    again = setting(BY_NAME[name])._replace(spec=l0.GateSpec.from_json(loaded["spec"]))
    continued = _train(loaded, again, 3, 6)
    assert equal(whole, continued)
    assert again.spec == s.spec
    close(whole["params"], continued["params"])
