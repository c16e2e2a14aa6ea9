"""Numbers from their bits, bits from numbers, and one of two numbers: single instructions."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.numba_names import intrinsic, ir, types


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 with these bits, a uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def bits_of(typing_context: Any, number: Any) -> Any:
    """A float32's bits, as a uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def double_of(typing_context: Any, bits: Any) -> Any:
    """The float64 with these bits, a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@intrinsic
def bits_of_double(typing_context: Any, number: Any) -> Any:
    """A float64's bits, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), generate


@intrinsic
def select(typing_context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``; both are computed."""
    kind = typing_context.unify_types(yes, no)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = context.cast(builder, args[1], yes, kind)
        second = context.cast(builder, args[2], no, kind)
        return builder.select(args[0], first, second)

    return kind(types.boolean, yes, no), generate
