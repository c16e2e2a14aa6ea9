"""The files that are mutated, and the test files that own each."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "l0func"

_WINGS = ("distributions", "costs", "gates", "spec", "tracing", "engine/ops")
_FILES = ("random.py", "kernels/philox.py")

SOURCES = [f"l0func/{name}" for name in _FILES] + [
    f"l0func/{path.relative_to(PACKAGE)}"
    for wing in _WINGS
    for path in sorted((PACKAGE / wing).rglob("*.py"))
    if path.name != "__init__.py"
]

_COMPILED = ("random", "distributions/by_formula", "distributions/formula_gate")
"""Files that call kernels in machine code."""

# The fewest test files that are about each source file, not all that run it.
OWNERS = {
    "random": "test_random module/test_row_numbers",
    "kernels/philox": "kernels/test_philox test_random",
    "distributions/base": (
        "distributions/test_distributions distributions/test_custom distributions/test_settings"
    ),
    "distributions/bernoulli": "distributions/test_distributions gates/test_arm",
    "distributions/blocks": "distributions/test_positions",
    "distributions/by_formula": "distributions/test_roads distributions/test_hard_concrete",
    "distributions/custom": "distributions/test_custom distributions/test_setting_names",
    "distributions/custom_checks": "distributions/test_custom_laws distributions/test_custom",
    "distributions/derived": "distributions/test_derived",
    "distributions/elementwise": (
        "distributions/test_distributions distributions/test_edges "
        "distributions/test_hard_concrete"
    ),
    "distributions/formula_gate": "distributions/test_distributions distributions/test_roads",
    "distributions/gaussian_gate": "distributions/test_distributions distributions/test_settings",
    "distributions/hard_concrete": "distributions/test_hard_concrete distributions/test_settings",
    "distributions/hard_concrete_formulas": (
        "distributions/test_hard_concrete distributions/test_edges"
    ),
    "distributions/hard_kuma": "distributions/test_distributions distributions/test_settings",
    "distributions/identities": "distributions/test_distributions distributions/test_derived",
    "distributions/masked_moments": "distributions/test_masked_moments",
    "distributions/moments": "distributions/test_custom distributions/test_distributions",
    "distributions/quadrature": "distributions/test_settings distributions/test_distributions",
    "distributions/registry": "files/test_own_distributions spec/test_from_file",
    "distributions/settings": "distributions/test_settings distributions/test_setting_names",
    "distributions/sharded": "many/test_sharded_draws",
    "distributions/smooth": "distributions/test_recorded_slopes distributions/test_distributions",
    "costs/expected": "costs/test_costs",
    "costs/latency": "costs/test_latency_tables",
    "costs/latency_text": "costs/test_latency_tables",
    "costs/levels": "costs/test_costs many/test_sharded_control",
    "costs/machine": "costs/test_latency_tables",
    "costs/macs": "costs/test_macs",
    "costs/products": "costs/test_macs costs/test_products_of_all_kinds",
    "costs/summary": "costs/test_summary",
    "costs/terms": "costs/test_terms costs/test_costs",
    "gates/arm": "gates/test_arm",
    "gates/checks": "gates/test_masks test_bad_input",
    "gates/closed": (
        "gates/test_closed compaction/test_nothing_removed many/test_gates_beside_parameters"
    ),
    "gates/density": "gates/test_density gates/test_closed",
    "gates/init": "gates/test_masks test_bad_input",
    "gates/masks": "gates/test_masks test_bad_input",
    "gates/prune": "gates/test_masks gates/test_exact_zeros gates/test_closed",
    "gates/twice": "gates/test_twice",
    "spec/differences": "test_module",
    "spec/bindings": "spec/test_spec spec/test_from_file test_bad_input",
    "spec/build": "spec/test_spec spec/test_rule_settings test_bad_input",
    "spec/from_file": "spec/test_from_file",
    "spec/json_values": "spec/test_from_file",
    "spec/parts": "spec/test_spec gates/test_masks many/test_gates_beside_parameters",
    "spec/plan": "spec/test_spec spec/test_from_file",
    "spec/rule_records": "spec/test_rules spec/test_from_file",
    "spec/rule_settings": "spec/test_rule_settings",
    "spec/rules": (
        "spec/test_rules spec/test_spec spec/test_rule_settings gates/test_masks test_bad_input"
    ),
    "spec/sharded_spread": "spec/test_spread_of_parts many/test_gates_beside_parameters",
    "tracing/call": "tracing/test_dataflow tracing/test_layers",
    "tracing/checks": (
        "tracing/test_dataflow tracing/test_repeats compaction/test_inside_heads "
        "compaction/test_stranger_rules"
    ),
    "tracing/entries": "tracing/test_dataflow tracing/test_steady",
    "tracing/follow": "tracing/test_tracing tracing/test_layers",
    "tracing/history": "tracing/test_tracing compaction/test_written_norms",
    "tracing/joined_dims": (
        "compaction/test_joined_dims tracing/test_products tracing/test_dataflow"
    ),
    "tracing/multiply_adds": "costs/test_macs tracing/test_tracing",
    "tracing/norm_states": "compaction/test_written_norms tracing/test_layers",
    "tracing/steady": "tracing/test_steady tracing/test_layers tracing/test_products",
    "tracing/step": "tracing/test_tracing tracing/test_dataflow tracing/test_repeats",
    "tracing/trace": "tracing/test_tracing tracing/test_layers tracing/test_dataflow",
    "tracing/tracer": (
        "tracing/test_steady tracing/test_tracing tracing/test_layers tracing/test_integer_reads"
    ),
    "tracing/transfers/activation_products": "tracing/test_dataflow tracing/test_products",
    "tracing/transfers/batched_weights": "compaction/test_stranger_rules tracing/test_products",
    "tracing/transfers/complex_numbers": "tracing/test_dataflow tracing/test_operations",
    "tracing/transfers/convolutions": (
        "tracing/test_products tracing/test_layers tracing/test_repeats compaction/test_idle"
    ),
    "tracing/transfers/copies": "tracing/test_dataflow tracing/test_operations",
    "tracing/transfers/embedding": "tracing/test_layers",
    "tracing/transfers/matrix_products": (
        "tracing/test_products tracing/test_operations compaction/test_idle"
    ),
    "tracing/transfers/moves": (
        "tracing/test_dataflow tracing/test_repeats tracing/test_operations"
    ),
    "tracing/transfers/norms": (
        "tracing/test_layers tracing/test_operations compaction/test_written_norms"
    ),
    "tracing/transfers/patches": "tracing/test_operations",
    "tracing/transfers/pointwise": "tracing/test_dataflow tracing/test_operations",
    "tracing/transfers/reductions": "tracing/test_dataflow tracing/test_operations",
    "tracing/transfers/refusal": "tracing/test_dataflow tracing/test_layers",
    "tracing/transfers/resampling": "tracing/test_layers tracing/test_operations",
    "tracing/transfers/scatters": "tracing/test_operations",
    "tracing/units": "tracing/test_labels tracing/test_layers",
    "tracing/values": "tracing/test_dataflow tracing/test_layers",
    "tracing/written_norms": "compaction/test_written_norms",
    "engine/ops/attention": "engine/test_ops engine/test_own_functions",
    "engine/ops/channels": "engine/test_ops engine/test_own_functions",
    "engine/ops/conv": "engine/test_ops engine/test_own_functions",
    "engine/ops/conv_transpose": "engine/test_ops engine/test_own_functions",
    "engine/ops/embedding": "engine/test_ops engine/test_own_functions engine/test_lookups",
    "engine/ops/fits": "engine/test_ops engine/test_own_functions",
    "engine/ops/gaussian": "engine/test_local_reparam many/test_rows_on_shards",
    "engine/ops/linear": (
        "engine/test_ops engine/test_own_functions engine/test_local_reparam "
        "engine/test_argument_names"
    ),
    "engine/ops/nested": "engine/test_ops engine/test_own_functions engine/test_export_of_gated",
    "engine/ops/recurrent": "engine/test_ops engine/test_own_functions",
    "engine/ops/reshape": "engine/test_ops engine/test_own_functions engine/test_shapes_of_gated",
    "engine/ops/slices": "engine/test_ops engine/test_own_functions engine/test_shapes_of_gated",
    "engine/ops/table": "engine/test_ops engine/test_own_functions",
    "engine/ops/views": "engine/test_ops engine/test_own_functions engine/test_shapes_of_gated",
}


def owners_of(source: str) -> list[str]:
    """The test files that own a source file, and the examples in its docstrings."""
    name = source.removeprefix("l0func/").removesuffix(".py")
    return [f"tests/{test}.py" for test in OWNERS[name].split()] + [source]


def kernel_for(source: str) -> str:
    """What draws gates: numba would compile a changed formula anew, and torch runs the same."""
    name = source.removeprefix("l0func/").removesuffix(".py")
    return "auto" if name in _COMPILED else "eager"
