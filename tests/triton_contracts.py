"""The contract list of the kernels in Triton, against plain torch on masks in memory.

``python tests/triton_contracts.py`` runs it: on a GPU if there is one, and on the CPU with
``TRITON_INTERPRET=1``, as ``tests/kernels/test_triton.py`` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from gate_formulas import FORMULAS

import l0func as l0
from l0func.kernels import by_torch
from l0func.kernels.by_torch import Node
from l0func.kernels.by_triton import api, launches, normal, probes, scalars, stream_calls
from l0func.kernels.by_triton import contraction_calls as calls
from l0func.kernels.formula import Formula

# (rows, columns, repeat, first): edges that no tile divides, rows that begin inside of a call.
SIZES = [(9, 132, 1, 0), (5, 12, 1, 4), (3, 7, 1, 2), (4, 12, 3, 1), (2, 6, 6, 0), (1, 1, 1, 3)]
BATCHES = (1, 3)


def all_close(name: str, found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    """Compare with an error that names the contract."""

    def words(text: str) -> str:
        return f"{name}: {text}"

    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, msg=words)


def masks(formula: Formula, la: Tensor, keys: Tensor, first: int, repeat: int) -> list[Tensor]:
    """The masks and their slopes in memory, ``(B, O, I)``."""
    drawn = by_torch.draw(formula, la.reshape(1, -1), keys, first)
    shaped = [z.reshape(keys.shape[0], *la.shape) for z in drawn]
    return [z.repeat_interleave(repeat, dim=-1) for z in shaped]


def keys_on(device: str, count: int) -> Tensor:
    keys = l0.random.split(l0.random.key(7), count).to(device)
    # An offset near 2**32: the counter carries into its upper word.
    keys[:, 1] = 2**32 - 2
    return keys


def words_are_those_of_random(device: str) -> None:
    keys = l0.random.split(l0.random.key(-3), 5).to(device)
    for first in (0, 1, 6):
        wanted = l0.random.uniform(keys, (first + 50,))[:, first:]
        for by_calls in (True, False):
            found = probes.uniforms(keys, first, 50, by_calls)
            assert torch.equal(found, wanted), (first, by_calls)


def streams_are_those_of_torch(device: str) -> None:
    # Offsets near 2**64 and 2**32, and none: counters carry, and wrap around.
    keys = l0.random.split(l0.random.key(11), 6).to(device)
    keys[:3, 1] = torch.tensor([-2, 2**32 - 2, 0])
    for counts in ((1,), (3, 0, 1030), (4, 2048)):
        each = keys[: 6 // len(counts) * len(counts)].reshape(-1, len(counts), 2)
        found, wanted = api.uniforms(each, counts), by_torch.uniforms(each, counts)
        assert torch.equal(found, wanted), counts
    # A mapped batch, and keys that do not lie side by side.
    turned = keys.flip(0).reshape(2, 3, 2).transpose(0, 1)
    for count in (0, 1, 7, 1026):
        found, wanted = api.normals(turned, count), by_torch.normals(turned, count)
        assert found.shape == wanted.shape == (3, 2, count)
        all_close("normals", found, wanted, 3e-7)
    data = torch.tensor([0, 1, -1, 2**40, -(2**63), 2**63 - 1], device=device)
    assert torch.equal(
        api.fold(turned.unsqueeze(-2), data), by_torch.fold(turned[..., None, :], data)
    )
    assert torch.equal(api.fold(keys, data[2]), by_torch.fold(keys, data[2]))
    for num in (0, 1, 300):
        assert torch.equal(api.split(keys, num), by_torch.split(keys, num)), num
    assert stream_calls.UNIFORM_CALLS * 4 < 1030


def _ndtr(x: Tensor) -> Tensor:
    # torch.special.ndtr itself is 1 + erf, and loses all digits of small values.
    return 0.5 * torch.special.erfc(-x * 0.5**0.5)


def scalars_are_within_four_units_or_six_for_ndtr(device: str) -> None:
    spread = torch.linspace(-80.0, 80.0, 4001, device=device)
    small = torch.linspace(-0.5, 0.5, 4001, device=device)
    positive = torch.cat((torch.logspace(-37, 37, 4001), torch.linspace(0.5, 2.0, 4001)))
    unit = torch.cat((torch.logspace(-7, -0.302, 4001), 1.0 - torch.logspace(-7, -0.302, 4001)))
    checks = [
        (scalars.exp, torch.exp, spread),
        (scalars.log, torch.log, positive),
        (scalars.log1p, torch.log1p, torch.cat((small, positive.cpu().to(device)))),
        (scalars.expm1, torch.expm1, torch.cat((small, small * 20.0))),
        (normal.ndtr, _ndtr, torch.linspace(-12.0, 6.0, 4001, device=device)),
        (normal.ndtri, torch.special.ndtri, unit),
    ]
    for function, oracle, numbers in checks:
        x = numbers.to(device)
        found = probes.scalar(function, x)
        wanted = oracle(x.double())
        unit_here = torch.exp2(wanted.abs().clamp(min=2.0**-126).log2().floor() - 23)
        error = ((found.double() - wanted).abs() / unit_here).max().item()
        limit = 6.0 if function is normal.ndtr else 4.0
        assert error <= limit, (function.__name__, error)


def draws_are_those_of_torch(device: str) -> None:
    keys = keys_on(device, 3)
    for (name, formula), first in product(FORMULAS.items(), (0, 5)):
        for lines in (1, 3):
            la = torch.linspace(-3.0, 3.0, lines * 37, device=device).reshape(lines, 37)
            found = api.draw(formula, la, keys, first)
            wanted = by_torch.draw(formula, la, keys, first)
            all_close(f"draw {name}", found[0], wanted[0])
            all_close(f"slope {name}", found[1], wanted[1], 1e-4)


def gates_have_the_same_bits_at_every_position(device: str) -> None:
    keys, size = keys_on(device, 2), 1003
    generator = torch.Generator().manual_seed(0)
    la = (3 * torch.randn(size, generator=generator)).to(device)
    values = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    for name, formula in FORMULAS.items():
        constants = [float(formula.node(t, *formula.settings)) for t in values]
        nodes = [Node(float(t), 0.1, c) for t, c in zip(values, constants, strict=True)]
        drawn = api.draw(formula, la.reshape(1, -1), keys, 0)
        moments = api.moments(formula, nodes, la)
        for first, last in [(1, size), (3, 17), (7, 8), (5, 1000), (994, size)]:
            own = la[first:last].clone()
            part = api.draw(formula, own.reshape(1, -1), keys, first)
            for mine, whole in zip(part, drawn, strict=True):
                cut = whole.reshape(2, -1)[:, first:last]
                assert torch.equal(mine.reshape(2, -1), cut), (name, first, last)
            for mine, whole in zip(api.moments(formula, nodes, own), moments, strict=True):
                assert torch.equal(mine, whole[first:last]), (name, first, last)


def moments_are_those_of_torch(device: str) -> None:
    la = torch.linspace(-4.0, 4.0, 301, device=device)
    values = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    for name, formula in FORMULAS.items():
        constants = [float(formula.node(t, *formula.settings)) for t in values]
        nodes = [Node(float(t), 0.1, c) for t, c in zip(values, constants, strict=True)]
        found, wanted = api.moments(formula, nodes, la), by_torch.moments(formula, nodes, la)
        for field, mine, theirs in zip(wanted._fields, found, wanted, strict=True):
            all_close(f"{field} {name}", mine, theirs)
        others = [torch.linspace(-2.0, 2.0, 301, device=device).roll(n) for n in range(3)]
        for call, given in (("masked_moments", others[:1]), ("masked_moment_grads", others)):
            mine = getattr(api, call)(formula, nodes, la, *given)
            theirs = getattr(by_torch, call)(formula, nodes, la, *given)
            for result, expected in zip(mine, theirs, strict=True):
                all_close(f"{call} {name}", result, expected)


def cases(device: str) -> Iterator[tuple[str, Formula, tuple[int, int, int, int], Tensor]]:
    for (name, formula), sizes, batch in product(FORMULAS.items(), SIZES, BATCHES):
        if name != "root" and (sizes not in SIZES[1:4:2] or batch == 1):
            continue
        yield f"{name} {sizes} batch {batch}", formula, sizes, keys_on(device, batch)


def products_are_those_of_masks_in_memory(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, formula, (rows, columns, repeat, first), keys in cases(device):
        batch = keys.shape[0]
        la, a, x, g = [
            torch.randn(shape, generator=generator).to(device)
            for shape in (
                (rows, columns // repeat),
                (rows, columns),
                (batch, columns),
                (batch, rows),
            )
        ]
        drawn = masks(formula, la, keys, first, repeat)
        lines = launches.Lines(*launches.prepared(formula, la), columns, first)
        both = launches.outer_product(formula, lines, keys, x, g, {0, 1})
        for order, z in enumerate(drawn):
            y = launches.forward_product(formula, lines, keys, a, x, order)
            all_close(f"y {order} {name}", y, torch.einsum("boi,oi,bi->bo", z, a, x), 1e-4)
            back = launches.backward_product(formula, lines, keys, a, g, order)
            all_close(f"x {order} {name}", back, torch.einsum("boi,oi,bo->bi", z, a, g), 1e-4)
            wanted = torch.einsum("boi,bi,bo->oi", z, x, g)
            all_close(f"a {order} {name}", both[order], wanted, 1e-4)
            # A compiler may join other multiplications and additions where one result is missing.
            alone = launches.outer_product(formula, lines, keys, x, g, {order})
            all_close(f"a {order} alone {name}", alone[order], both[order], 1e-6)
            again = launches.outer_product(formula, lines, keys, x, g, {order})
            assert torch.equal(alone[order], again[order]), name


def parts_of_a_weight_have_the_masks_of_their_columns(device: str) -> None:
    formula, keys = FORMULAS["root"], keys_on(device, 3)
    # A part of whole calls, and one that begins inside of a call.
    for (rows, columns, width), left in product([(5, 12, 4), (3, 10, 3)], (0, 4)):
        la = torch.linspace(-2.0, 2.0, rows * columns, device=device).reshape(rows, columns)
        drawn = masks(formula, la, keys, 4, 1)
        own = slice(left, left + width)
        a, x, g = [t.contiguous() for t in (la[:, own].cos(), la[:3, own].sin(), la[:3, :rows])]
        ready = launches.prepared(formula, la[:, own])
        lines = launches.Lines(*ready, width, 4 + left, columns)
        sums = launches.outer_product(formula, lines, keys, x, g, {0, 1})
        for order in (0, 1):
            z = drawn[order][:, :, own]
            y = launches.forward_product(formula, lines, keys, a, x, order)
            all_close(f"y {order} of {left}", y, torch.einsum("boi,oi,bi->bo", z, a, x), 1e-4)
            back = launches.backward_product(formula, lines, keys, a, g, order)
            all_close(f"x {order} of {left}", back, torch.einsum("boi,oi,bo->bi", z, a, g), 1e-4)
            wanted = torch.einsum("boi,bi,bo->oi", z, x, g)
            all_close(f"a {order} of {left}", sums[order], wanted, 1e-4)


def masked_weights_are_those_of_masks_in_memory(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    formula, keys = FORMULAS["root"], keys_on(device, 3)
    for name, (rows, columns, repeat, first) in [(str(sizes), sizes) for sizes in SIZES]:
        la = torch.randn((rows, columns // repeat), generator=generator).to(device)
        a = torch.randn((rows * columns,), generator=generator).to(device)
        products = torch.randn((keys.shape[0], a.shape[0]), generator=generator).to(device)
        drawn = [z.flatten(1) for z in masks(formula, la, keys, first, repeat)]
        p, q = [t.flatten() for t in launches.prepared(formula, la)]
        for orders in ({0}, {1}, {0, 1}):
            into = {order: torch.full_like(products, 9.0) for order in orders}
            launches.mask_entries(formula, p, q, keys, first, a, into)
            sums = {order: torch.ones_like(a) for order in orders}
            launches.sum_entries(formula, p, q, keys, first, products, sums)
            for order in orders:
                all_close(f"masked {name}", into[order], drawn[order] * a, 1e-4)
                wanted = 1.0 + (products * drawn[order]).sum(0)
                all_close(f"sums {name}", sums[order], wanted, 1e-4)


def linear_maps_and_convolutions_are_those_of_torch(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    formula, keys = FORMULAS["root"], keys_on(device, 3)
    sizes = SimpleNamespace(shape=(4, 12), first=3, step=0)
    la, a, x, g = [
        torch.randn(shape, generator=generator).to(device)
        for shape in ((4, 12), (12, 4), (3, 2, 12), (3, 1, 4))
    ]
    # Transposed, cut and turned operands: the kernels read contiguous memory.
    given = SimpleNamespace(log_alpha=la, a=a.t(), x=x[:, :1], g=g)
    outputs = list(product("yxa", (0, 1)))
    found = calls.contract_vectors(sizes, formula, outputs, keys.flip(0), given)
    z = masks(formula, la, keys.flip(0), 3, 1)
    equations = {"y": "boi,oi,bri->bro", "x": "boi,oi,bro->bri", "a": "boi,bri,bro->oi"}
    factors = {"y": (a.t(), x[:, :1]), "x": (a.t(), g), "a": (x[:, :1], g)}
    for (kind, order), result in zip(outputs, found, strict=True):
        wanted = torch.einsum(equations[kind], z[order], *factors[kind])
        all_close(f"{kind} {order}", result, wanted, 1e-4)
    _groups_of_a_convolution(device, formula, la, keys, sizes)


def _groups_of_a_convolution(
    device: str, formula: Formula, la: Tensor, keys: Tensor, sizes: SimpleNamespace
) -> None:
    """A grouped convolution for each key, from masked kernels in memory."""
    kernels = torch.linspace(-1.0, 1.0, 48, device=device)
    images = torch.linspace(-2.0, 2.0, 3 * 2 * 4 * 5 * 5, device=device).reshape(3, 2, 4, 5, 5)
    masked = {0: torch.empty(3, 48, device=device)}
    chunk = SimpleNamespace(keys=keys, products=kernels[:0], masked=masked, sums={})
    p, q = [t.flatten() for t in launches.prepared(formula, la)]
    calls.fill_chunk(sizes, formula, p, q, kernels, chunk)
    z = masks(formula, la, keys, 3, 1)[0]
    for b in range(3):
        found = torch.conv2d(images[b], masked[0][b].reshape(4, 2, 2, 3), groups=2)
        wanted = torch.conv2d(images[b], (z[b].flatten() * kernels).reshape(4, 2, 2, 3), groups=2)
        all_close("convolution", found, wanted, 1e-4)


def empty_sizes_give_empty_results(device: str) -> None:
    formula = FORMULAS["root"]
    none = keys_on(device, 1)[:0]
    lines = launches.Lines(*launches.prepared(formula, torch.zeros(2, 4, device=device)), 4, 0)
    a = torch.ones(2, 4, device=device)
    assert launches.forward_product(formula, lines, none, a, a[:0], 0).shape == (0, 2)
    assert launches.backward_product(formula, lines, none, a, a[:0, :2], 0).shape == (0, 4)
    summed = launches.outer_product(formula, lines, none, a[:0], a[:0, :2], {0})[0]
    assert torch.equal(summed, torch.zeros_like(a))
    assert api.draw(formula, torch.zeros(1, 0, device=device), none, 0)[0].shape == (0, 0)


class _Grids:
    """In place of a kernel: notes the grids of its launches and runs nothing."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.seen.append(grid)
        return lambda *_: None


def every_grid_fits_a_card(device: str) -> None:
    # A card takes 2**31 - 1 programs along the first axis and 65,535 along the others.
    grids, kernel, formula = _Grids(), launches.kernel, FORMULAS["root"]
    keys, one = keys_on(device, 1), torch.ones(1, 1, device=device)
    launches.kernel = lambda *_: grids
    try:
        for rows, columns in ((600_000, 1), (1, 9_000_000)):
            a = one.expand(rows, columns)
            lines = launches.Lines(a, a, columns, 0)
            launches.forward_product(formula, lines, keys, a, a[:1], 0)
            launches.backward_product(formula, lines, keys, a, a[:, :1].t(), 0)
            launches.outer_product(formula, lines, keys, a[:1], a[:, :1].t(), {0, 1})
    finally:
        launches.kernel = kernel
    assert len(grids.seen) == 6
    for first, *others in grids.seen:
        assert first < 2**31, grids.seen
        assert max(others, default=1) <= 65_535, grids.seen


CONTRACTS: list[Callable[[str], None]] = [
    words_are_those_of_random,
    streams_are_those_of_torch,
    scalars_are_within_four_units_or_six_for_ndtr,
    draws_are_those_of_torch,
    moments_are_those_of_torch,
    gates_have_the_same_bits_at_every_position,
    products_are_those_of_masks_in_memory,
    parts_of_a_weight_have_the_masks_of_their_columns,
    masked_weights_are_those_of_masks_in_memory,
    linear_maps_and_convolutions_are_those_of_torch,
    empty_sizes_give_empty_results,
    every_grid_fits_a_card,
]


def run(device: str, names: list[str]) -> None:
    """Run the contracts with these names, or all."""
    for contract in CONTRACTS:
        if not names or contract.__name__ in names:
            contract(device)
            print("ok", contract.__name__.replace("_", " "), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    run(given.device, given.names)
