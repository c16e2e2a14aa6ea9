"""Law 5: every operation on a gated parameter equals the operation on the masked one, for every
kind of gate and transform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import pytest
import torch
from device import DEVICE
from operations import OPERATIONS, Operation, tokens
from sampled import among, one_in, sampled
from torch import Tensor, nn
from torch.nn import functional as F

import l0func as l0
from l0func import random
from l0func.engine.parameter import GatedParameter

KEYS = random.split(random.key(5), 3)


RULES: dict[str, Callable[[int], Any]] = {
    "element": lambda rank: l0.element(),
    "rows": lambda rank: l0.axis(0),
    "columns": lambda rank: l0.axis(1),
    "last": lambda rank: l0.axis(-1),
    "part": lambda rank: l0.axis(0, 1, 3),
    "tiles": lambda rank: l0.tiles(0, 2),
    "whole": lambda rank: l0.whole(),
    "planes": lambda rank: l0.axes(0, 1),
    "rows and columns": lambda rank: [l0.axis(0), l0.axis(1)],
    "rows and entries": lambda rank: [l0.axis(0), l0.element()],
}


class Roads(NamedTuple):
    fast: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    arguments: tuple[dict[str, Tensor], dict[str, Tensor], Tensor]


def roads(operation: Operation, rule: Any, dtype: torch.dtype = torch.float64) -> Roads:
    params = {
        "w": torch.randn(operation.weight, dtype=dtype),
        "b": torch.randn(operation.bias, dtype=dtype),
    }
    spec = l0.gate_spec(params, {"w": rule, "b": l0.element()})
    gates = l0.init_gates(random.key(1), spec, droprate=0.3, noise=1.0)
    x = torch.randn(3, *operation.row, dtype=dtype)
    apply = l0.gated(lambda p, buffers, x: operation.run(p, x), spec)

    def fast(params: Any, gates: Any, x: Tensor) -> Tensor:
        return torch.vmap(lambda key, row: apply(params, gates, {}, key, row))(KEYS, x)

    def plain(params: Any, gates: Any, x: Tensor) -> Tensor:
        masked = [l0.apply_masks(params, l0.sample_masks(key, gates, spec)) for key in KEYS]
        return torch.stack([operation.run(p, row) for p, row in zip(masked, x, strict=True)])

    return Roads(fast, plain, (params, gates, x))


def flat(tree: Any) -> list[Tensor]:
    return [t for part in tree for t in (part.values() if isinstance(part, dict) else [part])]


every = [
    pytest.param(operation, rule, id=f"{operation}, {name}")
    for operation in OPERATIONS
    for name, rule in RULES.items()
    if not (name == "tiles" and operation.weight[0] % 2)
]


# Each operation meets one rule or two, each rule every seventh operation.
@pytest.mark.parametrize(("operation", "rule"), sampled(every, one_in(7)))
def test_an_operation_on_a_gated_parameter_equals_the_masked_one_with_all_its_derivatives(
    operation: Operation, rule: Any
):
    torch.manual_seed(0)
    r = roads(operation, rule(len(operation.weight)))
    directions = optree.tree_map(torch.sin, r.arguments)

    def slopes(road: Callable[..., Tensor], *a: Any) -> Any:
        return torch.func.grad(lambda *a: (road(*a).sin() ** 2).sum(), (0, 1, 2))(*a)

    def backward(road: Callable[..., Tensor]) -> list[Tensor]:
        """The slopes of a loss, and those of their squares."""

        def squares(*a: Any) -> Any:
            found = flat(slopes(road, *a))
            return sum((g**2).sum() for g in found), found

        second, first = torch.func.grad(squares, (0, 1), has_aux=True)(*r.arguments)
        return [*first, *flat(second)]

    def forward(road: Callable[..., Tensor]) -> list[Tensor]:
        """The values, and their first and second derivatives along a direction."""

        def along(*a: Any) -> Any:
            return torch.func.jvp(road, a, directions)

        # The second forward derivative of torch's own layer_norm is not that of the
        # normalisation written out.
        if operation.name == "layer norm":
            return [*along(*r.arguments)]
        values, slopes = torch.func.jvp(along, r.arguments, directions)
        return [*values, *slopes]

    for way in (backward, forward):
        for ours, theirs in zip(way(r.fast), way(r.plain), strict=True):
            torch.testing.assert_close(ours, theirs)


# One operation of every kind of handler also goes through the second half of the compiler.
WHOLLY_COMPILED = (
    *("linear", "matmul", "bilinear", "slices", "merged rows", "arithmetic"),
    *("conv2d in groups", "transposed conv2d", "embedding", "layer norm"),
)
SOON_COMPILED = ("slices", "conv2d in groups", "embedding")


@pytest.mark.compiles
@pytest.mark.parametrize("operation", sampled(OPERATIONS, among(*SOON_COMPILED)), ids=str)
def test_a_compiled_operation_has_the_values_and_slopes_of_the_masked_one(operation: Operation):
    torch.manual_seed(0)
    torch._dynamo.reset()
    ways = [
        roads(operation, RULES[name](len(operation.weight)))
        for name in ("element", "rows and columns")
    ]

    def loss(road: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *a: (road(*a).sin() ** 2).sum()

    def slopes(arguments: list[Any]) -> list[Any]:
        return [
            torch.func.grad(loss(r.fast), (0, 1, 2))(*a)
            for r, a in zip(ways, arguments, strict=True)
        ]

    arguments = [r.arguments for r in ways]
    backend = "aot_eager" if operation.name in WHOLLY_COMPILED else "eager"
    ours = torch.compile(slopes, fullgraph=True, backend=backend)(arguments)
    theirs = [torch.func.grad(loss(r.plain), (0, 1, 2))(*r.arguments) for r in ways]
    for one, other in zip(
        flat(part for way in ours for part in way),
        flat(part for way in theirs for part in way),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


NEVER_LAID_OUT = [
    *(
        "linear",
        "linear of many rows",
        "matmul",
        "addmm",
        "bilinear",
        "chunks",
        "slices",
        "scaled",
        "flattened",
        "viewed",
    ),
    *(
        "split up",
        "merged rows",
        "unsqueezed",
        "experts",
        "conv1d",
        "conv2d",
        "conv2d of no batch",
        "conv2d in groups",
    ),
    *(
        "conv2d depthwise",
        "conv3d",
        "transposed conv1d",
        "transposed conv2d",
        "transposed conv3d",
        "embedding",
    ),
    *("transposed conv2d of no batch", "transposed conv2d with all settings"),
]


UNPADDED = Operation(
    "conv2d without padding",
    lambda p, x: F.conv2d(x, p["w"], p["b"], padding="valid"),
    (4, 3, 2, 3),
    (2, 3, 5, 6),
)


@pytest.mark.parametrize(
    "operation", [*(o for o in OPERATIONS if o.name in NEVER_LAID_OUT), UNPADDED], ids=str
)
def test_gates_of_single_entries_stay_gates_through_these(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    r = roads(operation, l0.element())
    expected = r.plain(*r.arguments)

    def laid_out(*a: Any) -> Any:
        raise AssertionError("a mask for every row")

    monkeypatch.setattr(GatedParameter, "dense", laid_out)
    torch.testing.assert_close(r.fast(*r.arguments), expected)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"),
    reason="torch 2.1 gives this mode a number in a tensor's place",
)
@pytest.mark.parametrize(
    "rule",
    [
        l0.axis(0),
        l0.axis(1),
        l0.blocks(1, 2),
        l0.tiles(0, 2),
        l0.whole(),
        [l0.axis(0), l0.axis(1)],
    ],
)
def test_structured_gates_never_build_a_mask_for_every_row(rule: Any):
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in optree.tree_leaves(out) if isinstance(t, Tensor))
            return out

    params = {"w": torch.randn(40, 30)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(1), spec)
    rows = l0.per_example(l0.gated(lambda p, b, x: F.linear(x, p["w"]), spec))
    keys, x = random.split(random.key(0), 50), torch.randn(50, 30)
    loss = torch.func.grad(lambda p, g: rows(p, g, {}, keys, x).sum(), (0, 1))
    with Sizes():
        loss(params, gates)
    # The draws of 70 gates a row, padded to whole calls, in the 64-bit words of two calls side by
    # side.
    assert max(sizes) < 50 * 40 * 30 / 4


@pytest.mark.parametrize(
    "rule", [l0.element(), l0.axis(0), l0.axis(1), [l0.axis(0), l0.element()]], ids=str
)
def test_padding_teaches_neither_the_table_nor_its_gates(rule: Any):
    torch.manual_seed(0)
    words = Operation(
        "padded", lambda p, x: F.embedding(tokens(x), p["w"], 0) * x.unsqueeze(-1), (6, 8), (2, 5)
    )
    r = roads(words, rule)
    ours, theirs = (
        torch.func.grad(lambda *a, f=f: f(*a).sin().sum(), (0, 1, 2))(*r.arguments)
        for f in (r.fast, r.plain)
    )
    assert (ours[0]["w"][0] == 0).all()
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other)


def leak(p: dict[str, Tensor], b: Any, x: Tensor) -> Any:
    return F.linear(x, p["w"]), {"weight": p["w"]}


@pytest.mark.parametrize("rule", [l0.axis(0), l0.element()], ids=str)
def test_a_gated_parameter_that_is_returned_is_its_product(rule: Any):
    params = {"w": torch.randn(4, 3)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(1), spec)
    _, given = torch.vmap(lambda k, x: l0.gated(leak, spec)(params, gates, {}, k, x))(
        KEYS, torch.randn(3, 3)
    )
    for i, key in enumerate(KEYS):
        masked = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        torch.testing.assert_close(given["weight"][i], masked["w"])


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.mul_(2),
        lambda w: w.zero_(),
        lambda w: w.__setitem__(0, 1.0),
        lambda w: w.__iadd__(1),
        lambda w: nn.init.normal_(w),
        lambda w: setattr(w, "data", torch.zeros(4, 3)),
        lambda w: torch.add(torch.zeros(4, 3), 1, out=w),
    ],
)
def test_a_write_into_a_gated_parameter_is_refused(write: Callable[[Tensor], Any]):
    params = {"w": torch.randn(4, 3)}
    before = params["w"].clone()
    spec = l0.gate_spec(params, {"w": l0.axis(0)})
    gates = l0.init_gates(random.key(1), spec)

    def fn(p: dict[str, Tensor], b: Any, x: Tensor) -> Tensor:
        write(p["w"])
        return F.linear(x, p["w"])

    with pytest.raises(
        ValueError, match=r"writes into the gated parameter 'w'|draws from the global generator"
    ):
        torch.vmap(lambda k, x: l0.gated(fn, spec)(params, gates, {}, k, x))(
            KEYS, torch.randn(3, 3)
        )
    assert torch.equal(params["w"], before)


def test_the_storage_of_a_gated_parameter_is_nan():
    spec = l0.gate_spec({"w": torch.ones(4, 3)}, {"w": l0.axis(0)})
    seen: list[Tensor] = []

    def fn(p: dict[str, Tensor], b: Any, x: Tensor) -> Tensor:
        assert isinstance(p["w"], GatedParameter)
        with torch._C.DisableTorchFunctionSubclass():
            seen.append(p["w"].as_subclass(Tensor).isnan().all())
        return F.linear(x, p["w"])

    gates = l0.init_gates(random.key(1), spec)
    torch.vmap(lambda k, x: l0.gated(fn, spec)({"w": torch.ones(4, 3)}, gates, {}, k, x))(
        KEYS, torch.randn(3, 3)
    )
    assert seen[0].item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)])
def test_short_floats_stay_short(dtype: torch.dtype, rule: Any):
    if dtype == torch.float16 and not hasattr(torch.compiler, "is_compiling"):
        pytest.skip("torch 2.1 multiplies no float16 matrices on the CPU")
    torch.manual_seed(0)
    r = roads(OPERATIONS[0], rule, dtype)
    ours = r.fast(*r.arguments)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, r.plain(*r.arguments), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)])
def test_autocast_shortens_the_output(rule: Any):
    torch.manual_seed(0)
    r = roads(OPERATIONS[0]._replace(run=lambda p, x: F.linear(x, p["w"])), rule, torch.float32)
    expected = r.plain(*r.arguments)
    with torch.autocast(DEVICE, torch.bfloat16):
        torch.testing.assert_close(r.fast(*r.arguments).float(), expected, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("rule", [l0.element(), l0.axis(0)])
@pytest.mark.parametrize("shape", [(3, 0, 6), (3, 2, 6)])
def test_inputs_of_no_rows_and_of_any_stride(rule: Any, shape: tuple[int, ...]):
    params = {"w": torch.randn(6, 4).T}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(random.key(1), spec)
    apply = l0.gated(lambda p, b, x: F.linear(x, p["w"]), spec)
    x = torch.randn(*shape[:2], 2 * shape[2])[..., ::2]
    ours = torch.vmap(lambda k, x: apply(params, gates, {}, k, x))(KEYS, x)
    for i, key in enumerate(KEYS):
        torch.testing.assert_close(
            ours[i], apply(params, gates, {}, key, x[i]), rtol=1e-4, atol=1e-5
        )
