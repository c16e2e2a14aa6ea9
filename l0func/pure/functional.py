"""A module as a pure function, made by ``make_functional``.

The module's structure stays in the function, and its tensors come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l0func.internal import names, tree
from l0func.internal.context import compiling, traced_by_dynamo
from l0func.internal.mixed import in_words_of_arguments
from l0func.internal.shared_statistics import in_words_of_buffers
from l0func.internal.stacked import stack_words
from l0func.internal.tree import Tree
from l0func.internal.watch import current_watch, watching
from l0func.pure.dropped_buffers import DroppedBuffers, report_changes, report_frozen
from l0func.pure.eager import (
    ModuleTree,
    eager_paths,
    eager_root,
    is_compiled,
    module_tree,
)
from l0func.pure.guard import GuardedCalls, ReadGuard
from l0func.pure.independent import make_independent
from l0func.pure.keyed import Keyed
from l0func.pure.originals import Originals
from l0func.pure.other_draws import OtherDraws
from l0func.pure.part import Part, is_fsdp
from l0func.pure.places import Contents, Places
from l0func.pure.watched import Watched

OWN_BUFFERS = (
    "Give all buffers of the module: those from make_functional(module), which copies them as "
    "they are at that time, or those that a later call returned."
)
"""Where buffers are found, for an error about missing ones."""


class Functional(NamedTuple):
    """A pure function, its parameters and its buffers."""

    fn: PureModule
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


def make_functional(module: nn.Module, /) -> Functional:
    """Take a module apart into a stateless function, its parameters and its buffers.

    The function keeps the module's structure, and every submodule's present mode (train or eval).
    It keeps no tensor, and never reads or writes the module again. Tensors and modules in plain
    attributes, containers, partials, bound methods and weak references are each call's own.
    Closures and other objects cannot be pointed at a call's tensors: a call that reads the
    module's tensors through one raises a ValueError that names it.

    Args:
        module: Any eager module; of a compiled one, the module inside. Tied parameters and shared
            submodules stay tied: a tensor has one path, its first in the module.

    Returns:
        ``fn, params, buffers``. ``fn(params, buffers, *args, **kwargs)`` is the module's output;
        ``fn.with_buffers(params, buffers, *args, **kwargs)`` is ``(output, new buffers)``.
        ``params`` and ``buffers`` are flat ``{path: Tensor}``, detached copies of the module's
        own. ``params`` holds frozen parameters like the others; ``fn.trainable`` has the
        paths of those that are not frozen.

    Raises:
        ValueError: A parameter is uninitialised, an Embedding renormalises its weight in place
            (``max_norm``), a compiled wrapper has hooks of its own, or ``fully_shard`` sharded it.
        TypeError: ``module`` is not an eager nn.Module, or TorchScript below it runs on its
            parameters.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import nn
        >>> fn, params, buffers = l0.make_functional(nn.Linear(2, 3))
        >>> sorted(params), fn(params, buffers, torch.ones(4, 2)).shape
        (['bias', 'weight'], torch.Size([4, 3]))
    """
    module = eager_root(module)
    found = module_tree(module)
    for path, child in found.modules.items():
        if is_fsdp(type(child)):
            raise ValueError(
                f"fully_shard has sharded {path or 'the module'}, and FSDP gathers parameters "
                "into that module itself, not into a function's own. Call make_functional "
                "first; or wrap the module in an L0Module, and fully_shard its layers there."
            )
    fn = PureModule(module, found)
    _, params, buffers = found
    return Functional(fn, _copies(params.items()), _copies(buffers.items()))


class PureModule:
    """A module without its tensors: ``fn(params, buffers, *args, **kwargs)``.

    Calls share nothing: each runs on a shallow clone of the module tree, so any number of threads
    may call at once.
    """

    def __init__(self, module: nn.Module, found: ModuleTree | None = None) -> None:
        module = eager_root(module)
        modules, params, buffers = module_tree(module) if found is None else found
        self._compiled = any(map(is_compiled, module.modules()))
        self.shapes = {path: tuple(p.shape) for path, p in params.items()}
        self.trainable = frozenset(path for path, p in params.items() if p.requires_grad)
        self.frozen = frozenset(params) - self.trainable
        self.buffer_names = frozenset(buffers)
        self.module_paths = list(modules)
        places = Places(
            tensors={id(t): path for path, t in (params | buffers).items()},
            modules={id(m): number for number, m in enumerate(modules.values())},
        )
        self._parts = [Part.of(m, places) for m in modules.values()]
        self.dropped, self.other_draws = DroppedBuffers(), OtherDraws()
        # After the parts: a deep copy asks what became of their tensors.
        traced = traced_by_dynamo()
        own = {} if traced else {**params, **buffers}
        self.originals = Originals(own, [] if traced else modules.values())
        if not traced_by_dynamo():
            self._guard_originals()

    def __call__(self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any) -> Any:
        """The module's output on these parameters and buffers, without new buffers.

        A module in training mode may update buffers, such as BatchNorm's running statistics. This
        call drops the updates, and warns the first time: train with :meth:`with_buffers`, and
        evaluate with :meth:`eval`.

        Args:
            params: The module's parameters, flat or nested.
            buffers: Its buffers, likewise.
            *args: Inputs for the module's ``forward``.
            **kwargs: Keyword inputs for it.

        Returns:
            The module's output.

        Raises:
            ValueError: A path is missing or unknown, or a tensor has another shape; the module
                is random (dropout in training mode) and needs a key: use :func:`l0func.gated`;
                or a function or an object in it reads a tensor of the original module.
        """
        return self._without_key(self.output, params, buffers, args, kwargs)

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
        return self._without_key(self.run, params, buffers, args, kwargs)

    def _without_key(
        self,
        call: Callable[..., Any],
        params: Tree,
        buffers: Tree,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if compiling():
            with Keyed(None, None):
                return call(params, buffers, *args, **kwargs)
        watch = Watched(PureModule._without_key.__code__, self.other_draws)
        keyed = Keyed(None, watch)
        try:
            with watch, keyed:
                watch.settle(result := call(params, buffers, *args, **kwargs), keyed)
                return result
        except RuntimeError as error:
            given = {"inputs": args, "keyword inputs": kwargs, "buffers": buffers}
            in_words = in_words_of_arguments(error, params=params, **given)
            in_words = in_words or in_words_of_buffers(error, buffers)
            if in_words:
                raise in_words from error
            raise

    def run(
        self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """``with_buffers`` inside a :class:`Keyed` that the caller has entered."""
        own_params, own_buffers = self._checked(params, buffers)
        copies = _all_copied(own_buffers)
        modules = self._assemble(own_params | copies)
        output = self.forward(modules[0], own_params, args, kwargs)
        watch = None if compiling() else current_watch()
        if watch is not None:
            report_frozen(own_params, self.frozen)
            report_changes(watch, zip(self._parts, modules, strict=True), copies)
        new = self.buffers_of(modules)
        given = tree.leaves(buffers, "buffers") if self._compiled else own_buffers
        return output, dict(zip(given, [new[path] for path in own_buffers], strict=True))

    def assembled(self, params: Tree, buffers: Tree, /) -> list[nn.Module]:
        """The module tree for one call, around these parameters and copies of these buffers.

        Returns:
            The modules in the order of :meth:`parts`; the first is the root. They live for one
            call: attributes that ``forward`` writes on them are theirs.
        """
        own_params, own_buffers = self._checked(params, buffers)
        return self._assemble(own_params | _all_copied(own_buffers))

    def buffers_of(self, modules: Iterable[nn.Module], /) -> dict[str, Tensor]:
        """The buffers that the modules of a call hold now.

        Where gradients are recorded they are copies: a block in activation checkpointing writes
        the modules' own again in the backward pass.
        """
        held: dict[str, Tensor] = {}
        for part, module in zip(self._parts, modules, strict=True):
            held.update(part.buffers_of(module))
        if torch.is_grad_enabled() and not compiling():
            return _all_copied(held)
        return held

    def forward(
        self,
        module: nn.Module,
        params: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The output of a call's root module; a read of the original's tensors is refused.

        Args:
            module: The root of the modules for one call.
            params: The call's parameters, flat.
            args: Its inputs.
            kwargs: Its keyword inputs.

        Raises:
            ValueError: A function or an object in the module reads a tensor of the original, or
                writes one on it.
        """
        writers = self.originals.writers
        with writers.refused() if writers.writers else nullcontext():
            if not self.originals.by_id:
                return module(*args, **kwargs)
            return self._guard(params, (args, kwargs)).call(module, args, kwargs)

    def guarding(self, originals: Originals) -> PureModule:
        """The same function; it refuses reads of another function's originals too.

        A copy of a module shares its closures and weak references, which hold the first module.

        Args:
            originals: The originals of the function of the first module.
        """
        changed = copy(self)
        changed.originals = self.originals.joined(originals)
        changed._guard_originals()
        return changed

    def _guard(self, params: Mapping[str, Tensor], inputs: Any) -> ReadGuard:
        return ReadGuard(self.originals, self.parts, self.shapes, params, inputs)

    def _guard_originals(self) -> None:
        """Find what functions and objects hold, and guard the hooks for the backward pass."""
        self.originals.search(self.parts())
        if self.originals.is_held():
            guard = self._guard({}, ())
            self._parts = [part.with_backward_hooks(guard.around) for part in self._parts]

    def output(self, params: Tree, buffers: Tree, /, *args: Any, **kwargs: Any) -> Any:
        """The output of :meth:`run`; a warning follows where it drops changed buffers."""
        has_news = self.buffer_names and not self.dropped.told
        if compiling() or (not has_news and current_watch() is None):
            return self.run(params, buffers, *args, **kwargs)[0]
        with watching() as watch:
            output, _ = self.run(params, buffers, *args, **kwargs)
        self.dropped.tell(watch.changed)
        return output

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
            make_independent(module)
        if self.originals.is_held() or self.originals.writers.writers:
            GuardedCalls(self._guard({}, ())).register(modules[0])
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
        own_params, own_buffers = tree.leaves(params), tree.leaves(buffers, "buffers")
        if self._compiled:
            own_params, own_buffers = eager_paths(own_params), eager_paths(own_buffers)
        check, known = names.check_argument, {"params": self.shapes, "buffers": self.buffer_names}
        check(own_params, self.shapes, "module", "params", others=known)
        check(own_buffers, self.buffer_names, "module", "buffers", OWN_BUFFERS, known)
        for path, shape in self.shapes.items():
            got = tuple(own_params[path].shape)
            if got != shape:
                stack = stack_words("params", self.shapes, own_params)
                raise ValueError(
                    f"The module's {path!r} has shape {shape}; got {got}. "
                    f"{stack or 'For a module of other sizes call make_functional again.'}"
                )
        return own_params, own_buffers

    def _assemble(self, tensors: dict[str, Tensor]) -> list[nn.Module]:
        """New modules around these tensors, the root first."""
        modules = [part.new() for part in self._parts]
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


def _all_copied(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Inside per_example a clone is a new tensor for each row, and all rows share a buffer.
    if compiling() or not torch.is_inference_mode_enabled():
        return {path: b.to(b.dtype, copy=True) for path, b in buffers.items()}
    # Tensors made in inference mode have no version, by which a write into them shows.
    with torch.inference_mode(False):
        return {path: b.to(b.dtype, copy=True) for path, b in buffers.items()}


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {path: tensor.detach().clone() for path, tensor in named}
