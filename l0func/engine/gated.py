"""A pure function behind gates: :func:`gated` makes it, for one key and so for one mask.

:func:`l0func.per_example` maps it over rows, each with its own key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from l0func import random
from l0func.engine.arguments import check_key_argument, check_pure
from l0func.engine.ops.nested import Nested
from l0func.engine.parameter import dense, is_gated
from l0func.engine.stand_ins import StandIns
from l0func.gates.checks import MaskEstimator, check_estimator, check_gated_shapes
from l0func.gates.masks import apply_masks, deterministic_masks, sample_masks
from l0func.internal import names, outputs, tree
from l0func.internal.context import compiling, is_mapped, is_mapped_with
from l0func.internal.mixed import in_words_of_arguments
from l0func.internal.shared_statistics import in_words_of_buffers
from l0func.internal.tree import Tree
from l0func.pure.dropped_buffers import report_frozen
from l0func.pure.functional import PureModule
from l0func.pure.keyed import Keyed
from l0func.pure.other_draws import OtherDraws
from l0func.pure.watched import Watched
from l0func.spec.plan import GateSpec, check_spec

Sampling = Literal["exact", "local_reparam"]

OutputT = TypeVar("OutputT", covariant=True)
"""The output of the function behind the gates; the gated function returns the same."""

SAMPLINGS: tuple[Sampling, ...] = ("exact", "local_reparam")


def _dense_output(output: Any) -> Any:
    """The output with the product of weight and mask for each stand-in."""
    return outputs.map_visible_tensors(dense, output, "output", is_gated)


def _dense_pair(result: tuple[Any, Any]) -> tuple[Any, Any]:
    """The same for an output and the updated buffers."""
    output, updated = result
    return _dense_output(output), _dense_output(updated)


class Gated(Generic[OutputT]):
    """A pure function behind gates, made by :func:`gated`.

    Call it as ``apply(params, gates, buffers, key, *inputs, **kwargs)``.
    """

    def __init__(
        self,
        fn: Callable[..., OutputT],
        spec: GateSpec,
        estimator: MaskEstimator,
        sampling: Sampling = "exact",
    ) -> None:
        self.fn = fn
        self.spec = spec
        self.estimator: MaskEstimator = estimator
        self.sampling: Sampling = sampling
        self.other_draws = fn.other_draws if isinstance(fn, PureModule) else OtherDraws()
        self.stand_ins = StandIns(spec, local_reparam=sampling == "local_reparam")

    def __call__(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor | None,
        /,
        *inputs: Any,
        **kwargs: Any,
    ) -> OutputT:
        """The output under masks drawn from ``key``.

        Updates of buffers, such as BatchNorm's running statistics in training mode, are dropped,
        with one warning: train with :meth:`with_buffers`, and evaluate behind ``fn.eval()``.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            key: A key, shape ``(2,)``: masks and the function's own random functions (dropout) are
                drawn from it. None: the estimator's test-time gates, and no randomness.
            *inputs: The function's inputs.
            **kwargs: Its keyword inputs.

        Returns:
            The function's output.

        Raises:
            TypeError: ``key`` is not a key.
            ValueError: Params, gates or buffers do not fit; or ``key`` is None and the function is
                random.
        """
        if isinstance(self.fn, PureModule):
            return self._run(self.fn.output, params, gates, buffers, key, inputs, kwargs)
        return self._run(self.fn, params, gates, buffers, key, inputs, kwargs)

    def with_buffers(
        self,
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor | None,
        /,
        *inputs: Any,
        **kwargs: Any,
    ) -> tuple[OutputT, dict[str, Tensor]]:
        """``(output, new buffers)``: the same call, with the module's updated buffers.

        Args:
            params: Parameters, flat or nested.
            gates: ``{gate name: log_alpha}``.
            buffers: Buffers, flat or nested.
            key: A key, shape ``(2,)``, or None.
            *inputs: The function's inputs.
            **kwargs: Its keyword inputs.

        Returns:
            The output, and a flat dict with all buffers.

        Raises:
            TypeError: The function was not made by ``make_functional``, or ``key`` is not a key.
            ValueError: As for a plain call.
        """
        if not isinstance(self.fn, PureModule):
            raise TypeError(
                "with_buffers needs a function made by l0func.make_functional; this one returns "
                "no buffers."
            )
        given = params, gates, buffers, key, inputs, kwargs
        return self._run(self.fn.run, *given, densify=_dense_pair)

    def _run(
        self,
        call: Callable[..., Any],
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor | None,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        densify: Callable[[Any], Any] = _dense_output,
    ) -> Any:
        """The same as :meth:`_call`; torch's refusals of layouts name the arguments."""
        check_key_argument(key)
        given = params, gates, buffers, key, inputs, kwargs
        if compiling():
            return self._call(call, *given, densify)
        try:
            return self._call(call, *given, densify)
        except RuntimeError as error:
            trees = {"params": params, "inputs": inputs, "keyword inputs": kwargs}
            in_words = in_words_of_arguments(error, **trees, buffers=buffers)
            in_words = in_words or in_words_of_buffers(error, buffers)
            if in_words is None:
                raise
            raise in_words from error

    def _call(
        self,
        call: Callable[..., Any],
        params: Tree,
        gates: Tree,
        buffers: Tree,
        key: Tensor | None,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        densify: Callable[[Any], Any],
    ) -> Any:
        """Call the function on masked parameters; its random functions draw from the key."""
        if isinstance(self.fn, PureModule) and not compiling():
            report_frozen(params, self.fn.frozen)
        masked = self._masked(params, gates, key)
        # Keyed is the innermost mode, so that a dropout reaches it before ByRow or Nested.
        code = type(self)._call.__code__
        watch = None if compiling() else Watched(code, self.other_draws)
        keyed = Keyed(key, watch)
        with Nested() if watch is None else watch, keyed:
            output = call(masked, buffers, *inputs, **kwargs)
            if watch is not None:
                watch.settle(output, keyed)
            return densify(output)

    def _masked(self, params: Tree, gates: Tree, key: Tensor | None) -> Tree:
        """The parameters times a shared mask, or stand-ins if each row has its own key."""
        if key is not None and self._rows_have_own_keys(key, params):
            return self.stand_ins(key, params, gates)
        if key is None:
            masks = deterministic_masks(gates, self.spec, self.estimator)
        else:
            self._check_one_key(key)
            masks = sample_masks(key, gates, self.spec)
        check_gated_shapes(params, self.spec)
        return apply_masks(params, masks)

    def _rows_have_own_keys(self, key: Tensor, params: Tree) -> bool:
        # A vmap over keys and params alike is a stack of networks. Its masks take no more memory
        # than its weights, so it needs no stand-ins.
        return is_mapped(key) and not is_mapped_with(key, self._multiplied(params))

    def _multiplied(self, params: Tree) -> list[Tensor]:
        """The parameters that a gate multiplies."""
        tensors = tree.leaves(params)
        paths = [p.path for p in self.spec.parameters if p.multiplied]
        return [tensors[path] for path in paths if path in tensors]

    def _check_one_key(self, key: Tensor) -> None:
        random.check_key(key)
        if self.sampling == "local_reparam" and self.stand_ins.per_entry:
            raise ValueError(
                "Local reparameterisation draws the sums of each row anew; it has no mask that a "
                "batch shares. Give each row a key, through l0func.per_example, or use "
                "sampling='exact'."
            )

    def __repr__(self) -> str:
        settings = f"sampling={self.sampling!r}, estimator={self.estimator!r}"
        return f"Gated({self.fn!r}, {len(self.spec.gates)} gate vectors, {settings})"


def gated(
    fn: Callable[..., OutputT],
    spec: GateSpec,
    *,
    sampling: Sampling = "exact",
    estimator: MaskEstimator = "louizos",
) -> Gated[OutputT]:
    """Put a pure function behind gates.

    Args:
        fn: ``fn(params, buffers, *inputs, **kwargs)``, from :func:`l0func.make_functional` or your
            own.
        spec: The gate spec of its parameters.
        sampling: ``"exact"`` draws masks. ``"local_reparam"`` differs for linear layers and
            convolutions with a gate on every entry: it draws each row's pre-activations from the
            Gaussian with the same two moments (Kingma, Salimans & Welling 2015). It needs a key
            for every row.
        estimator: The test-time gates for a call without a key: ``"louizos"``, ``"median"``,
            ``"mean"`` or ``"count"``.

    Returns:
        ``apply(params, gates, buffers, key, *inputs, **kwargs)``, pure, for one mask;
        ``apply.with_buffers`` also returns the new buffers.

    Raises:
        TypeError: ``fn`` is a module, has gates already or is no function; or ``spec`` is no spec.
        ValueError: The estimator or the sampling is unknown; or local reparameterisation would be
            wrong for a rule.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params)
        >>> gates = l0.init_gates(l0.random.key(0), spec)
        >>> apply = l0.gated(fn, spec)
        >>> apply(params, gates, buffers, l0.random.key(1), torch.ones(4, 3)).shape
        torch.Size([4, 2])
        >>> apply(params, gates, buffers, None, torch.ones(4, 3)).shape  # the test-time gates
        torch.Size([4, 2])
    """
    _check_not_gated(fn)
    check_pure(fn)
    check_spec(spec)
    check_estimator(estimator)
    if sampling not in SAMPLINGS:
        raise ValueError(
            f"sampling is one of {SAMPLINGS}; got "
            f"{sampling!r}{names.closest(sampling, SAMPLINGS)}."
        )
    return Gated(fn, spec, estimator, sampling)


def _check_not_gated(fn: Any) -> None:
    if isinstance(fn, Gated):
        raise TypeError(
            "gated takes a pure function without gates; this one has gates already. Put all gates "
            "in one spec: gate_spec(params, rules, groups=groups)."
        )
