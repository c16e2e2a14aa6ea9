"""A module as a pure function: its structure stays in the function, its tensors come in as
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.pure.keyed import Keyed
from l0func.pure.part import Part, Sites, is_bookkeeping


class Functional(NamedTuple):
    """What :func:`make_functional` returns."""

    fn: PureModule
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


def make_functional(module: nn.Module, /) -> Functional:
    """Take a module apart into a stateless function, its parameters and its buffers.

    The function keeps the module's structure and its modes (train or eval, of every submodule) as
    they are now, and none of its tensors: it never reads or writes the module again.

    Args:
        module: Any module. Tied parameters and shared submodules stay tied: a tensor has one path,
            its first.

    Returns:
        ``fn, params, buffers``. ``fn(params, buffers, *args, **kwargs)`` is the module's output;
        ``fn.with_buffers(params, buffers, *args, **kwargs)`` is ``(output, new buffers)``.
        ``params`` and ``buffers`` are flat ``{path: Tensor}``, detached copies of the module's
        own. Frozen parameters are in ``params`` like the others; ``fn.trainable`` has the paths of
        those that are not frozen.

    Raises:
        ValueError: A parameter is uninitialised, or an Embedding renormalises its weight in place
            (``max_norm``).
        TypeError: ``module`` is not an eager nn.Module.

    Example:
        >>> fn, params, buffers = make_functional(nn.Linear(2, 3))
        >>> sorted(params), fn(params, buffers, torch.ones(4, 2)).shape
        (['bias', 'weight'], torch.Size([4, 3]))
    """
    fn = PureModule(module)
    tensors = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    return Functional(fn, tensors, buffers)


class PureModule:
    """A module without its tensors: ``fn(params, buffers, *args, **kwargs)``.

    Calls share nothing: each runs on a shallow clone of the module tree, so any number of threads
    may call at once.
    """

    def __init__(self, module: nn.Module) -> None:
        _check_module(module)
        names = {id(p): name for name, p in module.named_parameters()}
        buffer_names = {id(b): name for name, b in module.named_buffers()}
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self.trainable = frozenset(
            name for name, p in module.named_parameters() if p.requires_grad
        )
        self.buffer_names = frozenset(buffer_names.values())
        modules = list(module.modules())
        named: Iterable[tuple[str, nn.Module]] = cast("Any", module).named_modules()
        self.module_paths = [path for path, _ in named]
        sites = Sites(names | buffer_names, {id(m): i for i, m in enumerate(modules)})
        self._parts = [Part.of(m, sites) for m in modules]

    def __call__(self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any) -> Any:
        """The module's output on these parameters and buffers.

        Args:
            params: The module's parameters, flat or nested.
            buffers: Its buffers, likewise.
            *args: The inputs of the module's ``forward``.
            **kwargs: Its keyword inputs.

        Returns:
            Whatever ``forward`` returns.

        Raises:
            ValueError: A path is missing, unknown or of another shape; or the module is random
                (dropout in training mode), which needs a key: use :func:`l0func.gated`.
        """
        return self.with_buffers(params, buffers, *args, **kwargs)[0]

    def with_buffers(
        self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """``(output, new buffers)``: the same call, with what it would have written into the
        module.

        Args:
            params: The module's parameters, flat or nested.
            buffers: Its buffers, likewise.
            *args: The inputs of the module's ``forward``.
            **kwargs: Its keyword inputs.

        Returns:
            The output, and a flat dict of all buffers.

        Raises:
            ValueError: As for a plain call.
        """
        with Keyed(None):
            return self.run(params, buffers, *args, **kwargs)

    def run(
        self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """``with_buffers`` for a caller that has put a source of randomness around the call."""
        tensors = tree.leaves(params)
        state = tree.leaves(buffers, "buffers")
        self._check(tensors, state)
        # In-place updates of a buffer, such as BatchNorm's, meet a copy.
        modules = self._assemble(tensors | {name: b.clone() for name, b in state.items()})
        output = modules[0](*args, **kwargs)
        updated = {
            name: b
            for i, part in enumerate(self._parts)
            for name, b in part.buffers_of(modules[i])
        }
        return output, {name: updated[name] for name in state}

    def eval(self) -> PureModule:
        """The same function with every submodule in eval mode: dropout off, BatchNorm by its
        running statistics.
        """
        return self._with(
            lambda number, part: replace(part, plain=part.plain | {"training": False})
        )

    def module(self, params: Tree, buffers: Tree, /) -> nn.Module:
        """An nn.Module of this structure, with copies of these tensors as its own."""
        tensors, state = tree.leaves(params), tree.leaves(buffers, "buffers")
        self._check(tensors, state)
        own = {
            path: nn.Parameter(p.detach().clone(), path in self.trainable)
            for path, p in tensors.items()
        }
        modules = self._assemble(
            {**own, **{path: b.detach().clone() for path, b in state.items()}}
        )
        for module in modules:
            # Hook tables are shared by all calls of a function; a module has its own.
            module.__dict__.update(
                {name: copy(v) for name, v in vars(module).items() if is_bookkeeping(name)}
            )
        return modules[0]

    def parts(self) -> Iterator[tuple[str, Part]]:
        """The paths of the submodules, and what each is without its tensors."""
        return zip(self.module_paths, self._parts, strict=True)

    def resized(
        self, shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, Part]
    ) -> PureModule:
        """The same function for parameters of other shapes, with some submodules replaced, by
        their paths.
        """
        changed = self._with(lambda number, part: parts.get(self.module_paths[number], part))
        changed.shapes = {path: shapes[path] for path in self.shapes}
        return changed

    def _with(self, change: Callable[[int, Part], Part]) -> PureModule:
        changed = copy(self)
        changed._parts = [change(number, part) for number, part in enumerate(self._parts)]
        return changed

    def _check(self, tensors: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        names.check_names(tensors, self.shapes, "The module's params")
        names.check_names(state, self.buffer_names, "The module's buffers")
        for name, shape in self.shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(
                    f"The module's {name!r} has shape {shape}; got {tuple(tensors[name].shape)}. "
                    "For a module of other sizes call make_functional again."
                )

    def _assemble(self, tensors: dict[str, Tensor]) -> list[nn.Module]:
        modules: list[nn.Module] = [part.kind.__new__(part.kind) for part in self._parts]
        for module, part in zip(modules, self._parts, strict=True):
            part.fill(module, tensors, modules)
        return modules

    def __repr__(self) -> str:
        return f"PureModule({self._parts[0].kind.__name__}, {len(self.shapes)} params, {len(self.buffer_names)} buffers)"


def _is_eager(module: Any) -> bool:
    return isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule)


def check_function(fn: Any) -> None:
    """Refuse what is not a pure module.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(fn, PureModule):
        raise TypeError(
            "fn is what l0func.make_functional or l0func.compact returned, which knows its "
            "module's structure; "
            f"got {type(fn).__name__}."
        )


def _check_module(module: Any) -> None:
    if not _is_eager(module):
        raise TypeError(
            f"make_functional takes an eager torch.nn.Module; got {type(module).__name__}."
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if untyped.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name!r} is uninitialised; run the lazy module once on an example before "
                f"make_functional."
            )
    for name, child in module.named_modules():
        if getattr(child, "max_norm", None) is not None:
            raise ValueError(
                f"{type(child).__name__} {name!r} has max_norm={child.max_norm}, which rewrites "
                f"its weight at every call. "
                "Build it with max_norm=None, and renormalise the parameters between steps if you "
                "need to."
            )
