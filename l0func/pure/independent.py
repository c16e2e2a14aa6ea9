"""Hook tables, graphs and flat weights for a module that a function has made."""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import nn

from l0func.pure.eager import is_graph_module
from l0func.pure.part import copied_graph, is_bookkeeping


def make_independent(module: nn.Module) -> None:
    """Give a module its own tables of hooks, its own graph, and recurrent weights in one piece.

    All calls of a function share its tables and graphs. cuDNN takes the weights of a recurrent
    layer from one piece of memory, and would copy them together at every call.
    """
    attributes = vars(module)
    tables = [name for name in attributes if is_bookkeeping(name)]
    for name in tables:
        attributes[name] = copy(attributes[name])
    if is_graph_module(type(module)):
        _give_own_graph(module)
    if isinstance(module, nn.RNNBase) and _reads_own_parameters(module):
        module.flatten_parameters()


def _reads_own_parameters(module: Any) -> bool:
    """Whether a recurrent layer computes with its parameters, and with no function of them."""
    own = {id(p) for p in module.parameters(recurse=False)}
    return all(id(weight) in own for weight in module._flat_weights)


def _give_own_graph(module: Any) -> None:
    # An edit of the graph writes a new forward into the class, so the module needs its own.
    kind: Any = module.__class__
    module.__class__ = kind.__new__(kind).__class__
    attributes: dict[str, Any] = module.__dict__
    graph = attributes["_graph"] = copied_graph(attributes["_graph"])
    graph.owning_module = module
    module.recompile()
