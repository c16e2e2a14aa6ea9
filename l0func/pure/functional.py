"""A module as a pure function, made by ``make_functional``.

The module's structure stays in the function, and its tensors come in as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from l0func.internal import names, tree
from l0func.internal.tree import Tree
from l0func.internal.untyped import untyped
from l0func.pure.keyed import Keyed
from l0func.pure.part import Contents, Part, Places, is_bookkeeping


class Functional(NamedTuple):
    """A pure function, its parameters and its buffers."""

    fn: PureModule
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


def make_functional(module: nn.Module, /) -> Functional:
    """Take a module apart into a stateless function, its parameters and its buffers.

    The function keeps the module's structure, and every submodule's present mode (train or eval).
    It keeps no tensor, and never reads or writes the module again.

    Args:
        module: Any module. Tied parameters and shared submodules stay tied: a tensor has one path,
            its first in the module.

    Returns:
        ``fn, params, buffers``. ``fn(params, buffers, *args, **kwargs)`` is the module's output;
        ``fn.with_buffers(params, buffers, *args, **kwargs)`` is ``(output, new buffers)``.
        ``params`` and ``buffers`` are flat ``{path: Tensor}``, detached copies of the module's
        own. ``params`` holds frozen parameters like the others; ``fn.trainable`` has the
        paths of those that are not frozen.

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
    params = _copies(module.named_parameters())
    buffers = _copies(module.named_buffers())
    return Functional(fn, params, buffers)


class PureModule:
    """A module without its tensors: ``fn(params, buffers, *args, **kwargs)``.

    Calls share nothing: each runs on a shallow clone of the module tree, so any number of threads
    may call at once.
    """

    def __init__(self, module: nn.Module) -> None:
        _check_module(module)
        params = dict(module.named_parameters())
        buffers = dict(module.named_buffers())
        named: Iterable[tuple[str, nn.Module]] = cast("Any", module).named_modules()
        modules = dict(named)
        self.shapes = {path: tuple(p.shape) for path, p in params.items()}
        self.trainable = frozenset(path for path, p in params.items() if p.requires_grad)
        self.buffer_names = frozenset(buffers)
        self.module_paths = list(modules)
        places = Places(
            tensors={id(t): path for path, t in (params | buffers).items()},
            modules={id(m): number for number, m in enumerate(modules.values())},
        )
        self._parts = [Part.of(m, places) for m in modules.values()]

    def __call__(self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any) -> Any:
        """The module's output on these parameters and buffers.

        Args:
            params: The module's parameters, flat or nested.
            buffers: Its buffers, likewise.
            *args: Inputs for the module's ``forward``.
            **kwargs: Keyword inputs for it.

        Returns:
            The module's output.

        Raises:
            ValueError: A path is missing or unknown, or a tensor has another shape; or the module
                is random (dropout in training mode) and needs a key: use :func:`l0func.gated`.
        """
        return self.with_buffers(params, buffers, *args, **kwargs)[0]

    def with_buffers(
        self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """``(output, new buffers)``: the same call, with the buffers that the module updated.

        Args:
            params: The module's parameters, flat or nested.
            buffers: Its buffers, likewise.
            *args: Inputs for the module's ``forward``.
            **kwargs: Keyword inputs for it.

        Returns:
            The output, and a flat dict with all buffers.

        Raises:
            ValueError: As for a plain call.
        """
        with Keyed(None):
            return self.run(params, buffers, *args, **kwargs)

    def run(
        self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """``with_buffers`` inside a :class:`Keyed` that the caller has entered."""
        modules = self.assembled(params, buffers)
        own_params = tree.leaves(params)
        output = self.forward(modules[0], own_params, args, kwargs)
        held = self.buffers_of(modules)
        return output, {path: held[path] for path in tree.leaves(buffers, "buffers")}

    def forward(
        self,
        module: nn.Module,
        params: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The output of a call's root module.

        Args:
            module: The root of the modules for one call.
            params: The call's parameters, flat.
            args: Its inputs.
            kwargs: Its keyword inputs.
        """
        return module(*args, **kwargs)

    def assembled(self, params: Tree, buffers: Tree, /) -> list[nn.Module]:
        """The module tree for one call, around these parameters and copies of these buffers.

        Returns:
            The modules in the order of :meth:`parts`; the first is the root. They live for one
            call: what ``forward`` writes on them is theirs.
        """
        own_params, own_buffers = self._checked(params, buffers)
        # In-place updates of a buffer, such as BatchNorm's, write into a copy.
        copies = {path: b.clone() for path, b in own_buffers.items()}
        return self._assemble(own_params | copies)

    def buffers_of(self, modules: Iterable[nn.Module], /) -> dict[str, Tensor]:
        """The buffers that the modules of a call hold now."""
        held: dict[str, Tensor] = {}
        for part, module in zip(self._parts, modules, strict=True):
            held.update(part.buffers_of(module))
        return held

    def eval(self) -> PureModule:
        """The same function with every submodule in eval mode.

        Dropout is off, and BatchNorm normalises by its running statistics.
        """
        return self._with_parts([part.with_attribute("training", False) for part in self._parts])

    def module(self, params: Tree, buffers: Tree, /) -> nn.Module:
        """An nn.Module with this structure and with copies of these tensors."""
        own_params, own_buffers = self._checked(params, buffers)
        tensors: dict[str, Tensor] = {}
        for path, p in _copies(own_params.items()).items():
            tensors[path] = nn.Parameter(p, requires_grad=path in self.trainable)
        modules = self._assemble(tensors | _copies(own_buffers.items()))
        for module in modules:
            _copy_bookkeeping(module)
        return modules[0]

    def parts(self) -> Iterator[tuple[str, Part]]:
        """The path and the part for each module in the tree."""
        return zip(self.module_paths, self._parts, strict=True)

    def resized(
        self, shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, Part]
    ) -> PureModule:
        """The same function for parameters with other shapes, and with some parts replaced.

        Args:
            shapes: The new shape for every parameter path.
            parts: The new parts, by module path.
        """
        new_parts = [parts.get(path, part) for path, part in self.parts()]
        changed = self._with_parts(new_parts)
        changed.shapes = {path: shapes[path] for path in self.shapes}
        return changed

    def _with_parts(self, parts: list[Part]) -> PureModule:
        changed = copy(self)
        changed._parts = parts
        return changed

    def _checked(self, params: Tree, buffers: Tree) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Flat parameters and buffers that fit the module."""
        own_params = tree.leaves(params)
        own_buffers = tree.leaves(buffers, "buffers")
        names.check_names(own_params, self.shapes, "The module's params")
        names.check_names(own_buffers, self.buffer_names, "The module's buffers")
        for path, shape in self.shapes.items():
            got = tuple(own_params[path].shape)
            if got != shape:
                raise ValueError(
                    f"The module's {path!r} has shape {shape}; got {got}. "
                    "For a module of other sizes call make_functional again."
                )
        return own_params, own_buffers

    def _assemble(self, tensors: dict[str, Tensor]) -> list[nn.Module]:
        """New modules around these tensors, the root first."""
        modules: list[nn.Module] = [part.kind.__new__(part.kind) for part in self._parts]
        contents = Contents(tensors, modules)
        for module, part in zip(modules, self._parts, strict=True):
            part.fill(module, contents)
        return modules

    def __repr__(self) -> str:
        kind = self._parts[0].kind.__name__
        return f"PureModule({kind}, {len(self.shapes)} params, {len(self.buffer_names)} buffers)"


def check_function(fn: Any) -> None:
    """Refuse anything but a pure module.

    Raises:
        TypeError: ``fn`` is something else.
    """
    if not isinstance(fn, PureModule):
        raise TypeError(
            "fn must come from l0func.make_functional or l0func.compact, because it has to know "
            f"its module's structure; got {type(fn).__name__}."
        )


def _copy_bookkeeping(module: nn.Module) -> None:
    # All calls of a function share its hook tables; a module needs its own.
    attributes = vars(module)
    tables = [name for name in attributes if is_bookkeeping(name)]
    for name in tables:
        attributes[name] = copy(attributes[name])


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {path: tensor.detach().clone() for path, tensor in named}


def _is_eager(module: Any) -> bool:
    is_scripted = isinstance(module, torch.jit.ScriptModule)
    return isinstance(module, nn.Module) and not is_scripted


def _check_module(module: Any) -> None:
    if not _is_eager(module):
        raise TypeError(
            f"make_functional takes an eager torch.nn.Module; got {type(module).__name__}."
        )
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if untyped.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{path!r} is uninitialised; run the lazy module once on an example before "
                "make_functional."
            )
    for path, child in module.named_modules():
        if getattr(child, "max_norm", None) is not None:
            raise ValueError(
                f"{type(child).__name__} {path!r} has max_norm={child.max_norm}, which rewrites "
                "its weight at every call. Build it with max_norm=None, and renormalise the "
                "parameters between steps if you need to."
            )
