"""Every kernel in Triton, compiled for cards that need not be there: H100 and A100.

A kernel that the compiler refuses is an error, and one that runs out of registers too. The
interpreter accepts code that the compiler does not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from gate_formulas import FORMULAS

from l0func.kernels.by_triton import gates, launches, moments, stream_calls, streams, vectors
from l0func.kernels.by_triton.binding import compiled, kernel
from l0func.kernels.by_triton.triton_names import triton
from l0func.kernels.formula import Formula

COMPILER: Any = triton.compiler
POINTERS = {"p", "q", "a", "x", "y", "g", "z", "slopes", "masked", "masked_slopes", "nodes"}
POINTERS |= {"products", "sums", "slope_sums", "means", "variances", "mean_slopes"}
POINTERS |= {"variance_slopes", "out", "log_alpha"}
KEYS = {"keys", "data", "into"}

BLOCK = {"CALLS": launches.CALLS}
SUM = {"CALLS": launches.SUM_CALLS, "VALUES": True, "SLOPES": True}
KERNELS = [
    (gates.draw_gates, BLOCK),
    (gates.prepare_gates, {"GATES": launches.PREPARED}),
    (gates.mask_entries, BLOCK | {"VALUES": True, "SLOPES": False}),
    (gates.sum_entries, SUM),
    (moments.integrate, {"GATES": moments.GATES}),
]
PRODUCTS = [
    (vectors.forward_product, launches.FORWARD, {"ORDER": 0}),
    (vectors.forward_product, launches.FORWARD, {"ORDER": 1}),
    (vectors.backward_product, launches.BACKWARD, {"ORDER": 0}),
    (vectors.backward_product, launches.BACKWARD, {"ORDER": 1}),
    (vectors.outer_product, launches.OUTER, {"VALUES": True, "SLOPES": True}),
]
for (product_of, tile, chosen), by_calls in product(PRODUCTS, (True, False)):
    sizes = {name.upper(): size for name, size in tile._asdict().items()}
    KERNELS += [(product_of, sizes | chosen | {"BY_CALLS": by_calls})]
STREAMS = [
    (streams.fill_uniforms, {"CALLS": stream_calls.UNIFORM_CALLS}),
    (streams.fill_normals, {"CALLS": stream_calls.NORMAL_CALLS}),
    (streams.fold_numbers, {"KEYS": stream_calls.FOLDED_KEYS}),
]


def _kind(name: str, constants: dict[str, Any], formula: Formula | None) -> Any:
    if name in constants:
        return "constexpr"
    if name in KEYS:
        return "*i64"
    if name == "settings":
        assert formula is not None
        return ("fp32",) * len(formula.settings)
    if name in POINTERS:
        return "*fp32"
    return "fp32" if name == "middle" else "i32"


def built(
    template: Any, constants: dict[str, Any], formula: Formula | None, capability: int
) -> Any:
    """A kernel in machine code for a card; kernels of streams have no formula."""
    names = list(signature(template).parameters)
    kinds = {name: _kind(name, constants, formula) for name in names}
    if capability < 90:
        # A position beyond 2**31 comes as 64 bits.
        kinds = {name: "i64" if name == "first" else kind for name, kind in kinds.items()}
    aligned = [["tt.divisibility", 16]]
    pointers = [i for i, name in enumerate(names) if str(kinds[name]).startswith("*")]
    attributes = {(i,): aligned for i in pointers}
    values = {(names.index(name),): value for name, value in constants.items()}
    bare = formula is None
    function = compiled(template, template.__globals__) if bare else kernel(template, formula)
    source = COMPILER.ASTSource(function, kinds, values, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target)


def stack_of(machine_code: bytes) -> int:
    """The bytes of local memory that a thread takes: where registers run out, they spill there."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [found] = re.findall(r"STACK:(\d+)", text)
    return int(found)


def main(capabilities: list[int]) -> None:
    for name, formula in {"streams": None, **FORMULAS}.items():
        some = KERNELS if name == "root" else [*KERNELS[:2], KERNELS[4]]
        some = STREAMS if formula is None else some
        for (template, constants), capability in product(some, capabilities):
            found = built(template, constants, formula, capability)
            stack = stack_of(found.asm["cubin"])
            # For an A100 the compiler spills some numbers of backward_product. Sine and cosine in
            # float64 keep a table for huge arguments.
            limit = 0 if capability >= 90 else 64
            assert stack <= limit or formula is None, (template.__name__, capability, stack)
            print("ok", capability, name, template.__name__, flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [90, 80])
