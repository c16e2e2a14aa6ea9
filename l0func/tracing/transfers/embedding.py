"""Embedding lookups: every column in the table is a unit."""

from __future__ import annotations

from torch import Tensor

from l0func.tracing.call import Call
from l0func.tracing.step import Step, Transfer
from l0func.tracing.transfers.refusal import refuse


def _table_lookup(step: Step, call: Call) -> None:
    table: Tensor = call.args[0]
    weight = step.weight(table)
    if weight is None or table.dim() != 2:
        refuse(step, call)
        return
    made = step.units.fresh(table.shape[1])
    step.own(weight, 1, made)
    step.set_all(call.outputs[:1], made)


TRANSFERS: dict[str, Transfer] = {"embedding": _table_lookup}
