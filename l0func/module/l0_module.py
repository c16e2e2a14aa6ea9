"""The class :class:`L0Module`: settings, forward, costs and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0func import random
from l0func.compaction.compact import compact, to_module
from l0func.compaction.empty import Empty
from l0func.costs import expected as costs
from l0func.costs.summary import Summary, summary
from l0func.distributions import GateDistribution
from l0func.engine.gated import Sampling, gated
from l0func.engine.per_example import PerExample
from l0func.engine.row import Axis
from l0func.gates.checks import MaskEstimator, check_values
from l0func.gates.density import Density
from l0func.gates.init import init_gates
from l0func.internal.context import compiling
from l0func.internal.whole import check_whole
from l0func.module import chain, checkpoint, draws, refusals, settings
from l0func.module.apart import apart, next_key_number
from l0func.module.beside import gates_beside
from l0func.module.call import LiveCall
from l0func.module.copying import copied_module, detached_results
from l0func.module.fitting import beside_parameters, check_fits_spec
from l0func.module.live import Live, named_modules, with_modes
from l0func.module.precision import gate_dict, kept_integers
from l0func.module.redraw import redraw_in_place
from l0func.module.row_settings import RowSettings
from l0func.module.rows import batch_size, check_rows_argument, keys_for_batch
from l0func.module.shards import resizable
from l0func.module.signature import show_signature, shows_signature
from l0func.module.tied import share_tied
from l0func.module.watch import watch
from l0func.module.written import Written
from l0func.pure.functional import PureModule, make_functional
from l0func.pure.init_params import Initialiser
from l0func.spec.build import Rules, gate_spec
from l0func.spec.plan import Group


class L0Module(RowSettings):
    """A copy of a module with learned gates on its weights.

    In training every forward draws new masks, shared by the batch or one for each example; in eval
    mode the gates are fixed. Add :meth:`regularization` to the loss. Give ``gates()`` an optimizer
    without weight decay and with a larger learning rate than ``weights()``.

    Args:
        module: The module to copy; its weights are kept as they are.
        lam: The cost for each open entry, on the scale of the loss: if the loss is a mean over N
            examples, the paper's λ divided by N. A number, a tensor, or ``{pattern: either}``.
        weight_decay: The cost for half a squared weight while its gate is open. Use no other
            weight decay.
        droprate_init: The probability that a gate starts closed, in (0, 1).
        temperature: β of the hard concrete distribution.
        limit_a: Its lower stretch limit γ, below 0.
        limit_b: Its upper stretch limit ζ, above 1.
        epsilon: Without effect, kept for old code: draws from (0, 1) need no margin.
        rules: The gates by parameter, as for :func:`l0func.gate_spec`; ``{"pattern": None}``
            excludes.
        groups: Gates over slices of several parameters, as for :func:`l0func.gate_spec`.
        distribution: Another distribution of the gates, as for :func:`l0func.gate_spec`.
        sampling: ``"exact"`` or ``"local_reparam"``, as for :func:`l0func.gated`.
        init_params: New values for parameters, as for :func:`l0func.init_params`.
        per_example: Whether every example has its own masks in training.
        in_dims: With ``per_example``, where the examples are in the inputs by position, as for
            :func:`l0func.per_example`: None for an input that all examples share.
        out_dims: Likewise, where they are in the outputs.
        estimator: The test-time gates, for eval mode.
        seed: The seed for all draws, another one for each part of a network that is wrapped for
            itself; None takes one from ``generator``, or from torch's global generator.
        generator: The source of a seed, if none is given.
        rank: A number that sets this process's draws apart, such as
            ``torch.distributed.get_rank()``; with None all processes with one seed draw alike.

    Raises:
        ValueError: A rule, droprate, limit or estimator is not valid; see the functions above.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> net = l0.L0Module(torch.nn.Linear(3, 2), lam=1e-3, seed=0)
        >>> net(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    key: Tensor
    """The key of all draws; see :meth:`key_of`."""

    def __init__(
        self,
        module: nn.Module,
        lam: costs.Lam | Mapping[str, costs.Lam],
        weight_decay: float | Tensor = 0.0,
        droprate_init: float = 0.2,
        temperature: float = 2 / 3,
        limit_a: float = -0.1,
        limit_b: float = 1.1,
        epsilon: float = settings.EPSILON,
        *,
        rules: Rules | None = None,
        groups: Mapping[str, Group] | None = None,
        distribution: GateDistribution | Mapping[str, GateDistribution] | None = None,
        sampling: Sampling = "exact",
        init_params: Mapping[str, Initialiser | None] | None = None,
        per_example: bool = False,
        in_dims: Axis = 0,
        out_dims: Axis = 0,
        estimator: MaskEstimator = "louizos",
        seed: int | None = None,
        generator: torch.Generator | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        settings.check_arguments(module, L0Module, estimator, epsilon, rank)
        settings.check_row_settings(per_example, in_dims, out_dims)
        # Raises now, and not in the first forward, if the module cannot be a pure function.
        fn = PureModule(module)
        self.module = copied_module(module)
        self.lam, self.weight_decay = lam, weight_decay
        self.per_example, self.in_dims, self.out_dims = per_example, in_dims, out_dims
        self.sampling: Sampling = sampling
        self.estimator: MaskEstimator = estimator
        self.rank, self._key_number = rank, next_key_number()
        self._count = draws.draw_number(0)
        self._originals = fn.originals
        self._live: Live | None = None
        self._written = Written()
        params, buffers = self.weights(), dict(self.module.named_buffers())
        chosen = settings.chosen_distribution(distribution, temperature, limit_a, limit_b)
        self.spec = gate_spec(params, rules, groups=groups, buffers=buffers, distribution=chosen)
        settings.check_costs(lam, weight_decay, self.spec)
        apply = gated(fn, self.spec, sampling=sampling, estimator=estimator)
        settings.check_sampling(sampling, per_example, bool(apply.stand_ins.per_entry))
        start_key = random.key(settings.chosen_seed(seed, generator))
        gates_key, weights_key, own_key = random.split(start_key, 3)
        # Without the others' memory: a file takes no tensor that is a part of another.
        self.key = own_key.clone()
        gates = init_gates(gates_key, self.spec, droprate_init, estimator=estimator)
        self.log_alpha = gate_dict(beside_parameters(gates, params, self.spec))
        if init_params is not None:
            redraw_in_place(weights_key, params, init_params)
        watch(dict(module.named_parameters()), params)
        show_signature(self, self.module)
        self._current()

    @shows_signature
    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's output under masks: drawn anew in training, fixed in eval mode.

        Attributes and buffers that the wrapped module writes in its own forward, such as an
        auxiliary loss, are there afterwards, as in a plain module. With ``per_example`` those
        that differ from row to row have all rows along dimension 0.

        Args:
            *inputs: The module's inputs; with ``per_example``, examples are along dimension 0.
            **kwargs: The module's keyword inputs, likewise. With ``per_example`` also ``rows``,
                unless the module has an input of that name: the global number of every row, int64
                of shape ``(B,)``. Row i then has the masks that it would have as row ``rows[i]``
                of one process's batch.

        Returns:
            The module's output.

        Raises:
            RuntimeError: In training, forward runs in a backward pass, as a checkpoint around
                this module does.
            ValueError: The wrapped module makes parameters in its forward; or, with
                ``per_example`` and without ``rows``, two processes of a group have the same key.
        """
        refusals.check_not_symbolic(inputs, kwargs)
        live, gates = self._current(), resizable(self.gates())
        numbers = None if live.takes_rows else kwargs.pop("rows", None)
        has_rows = self.per_example and (self.training or numbers is not None)
        size = batch_size(inputs, kwargs, self.in_dims) if has_rows else 0
        if numbers is not None:
            check_rows_argument(numbers, size, self.key, self.per_example, self.rank)
        call = LiveCall(live, by_row=self.per_example and self.training)
        apply: Any = call.gated(self.spec, self.estimator, self.sampling)
        key = self._next_key(numbers) if self.training else None
        if call.by_row and key is not None:
            apply = PerExample(apply, self.in_dims, (self.out_dims, 0, None))
            key = keys_for_batch(key, numbers, size)
        params = resizable(live.params) if call.by_row else live.params
        output, left, buffers = apply(params, gates, live.buffers, key, *inputs, **kwargs)
        call.give_back(left, buffers if size or not call.by_row else live.buffers)
        draw = chain.Drawn(self._key_number, self.key, self._count)
        return chain.linked(draw, (inputs, kwargs), output) if self.training else output

    @property
    def draws(self) -> int:
        """The number of forwards in training mode so far."""
        return int(self._count)

    @draws.setter
    def draws(self, number: int) -> None:
        self._count = draws.draw_number(number)

    def key_of(self, draw: int) -> Tensor:
        """The key of one forward in training mode, to repeat it with the functional core.

        It is ``fold_in(key, draw)``. With a ``rank`` above 0 the rank is folded into ``key``
        first.

        Args:
            draw: The number of the forward, from 1 on; ``net.draws`` is the latest, and
                ``net.draws + 1`` the next.

        Returns:
            A key, shape ``(2,)``, for :func:`l0func.gated`. With ``per_example``, row i has key i
            of ``l0func.random.split(key, B)``, or of ``l0func.random.row_keys(key, rows)``.

        Example:
            >>> net = L0Module(nn.Linear(3, 2), lam=1e-3, seed=0)
            >>> x = torch.ones(4, 3)
            >>> y = net(x)
            >>> fn, params, buffers = make_functional(net.module)
            >>> apply = gated(fn, net.spec)
            >>> torch.equal(apply(params, net.gates(), buffers, net.key_of(1), x), y)
            True
        """
        return draws.key_of_draw(self.key, draw, self.rank or 0)

    def regularization(self) -> Tensor:
        """The expected L0 and L2 cost, to add to the loss; see :func:`l0func.penalty`."""
        settings.check_plain_costs(self.lam, self.weight_decay)
        gates = self._checked()
        return costs.penalty(self.weights(), gates, self.spec, self.lam, self.weight_decay)

    def count_l0(self) -> Tensor:
        """The expected number of nonzero parameters, including parameters without gates."""
        entries = sum(p.size for p in self.spec.parameters)
        density = 1.0 - costs.expected_sparsity(self._checked(), self.spec)
        return entries * density

    def count_l2(self) -> Tensor:
        """The sum of squared expected weights, masks included, over all parameters."""
        return costs.squared_mean(self.weights(), self._checked(), self.spec)

    def gates(self) -> dict[str, Tensor]:
        """The gate locations by name, as the functional core takes them."""
        names = [gate.name for gate in self.spec.gates]
        return {name: self.log_alpha[checkpoint.stored(name)] for name in names}

    def weights(self) -> dict[str, Tensor]:
        """The module's parameters by path, as the functional core takes them."""
        return dict(self.module.named_parameters())

    def summary(self, *, density: Density | None = None) -> Summary:
        """The table of :func:`l0func.summary` under this module's estimator, or at a density."""
        gates = gates_beside(self.weights(), self.gates(), self.spec)
        network = (self.weights(), gates, self.spec)
        return summary(*network, self._fixed_by(density), density=density)

    def compacted(
        self,
        example_inputs: Any = None,
        empty: Empty | None = None,
        *,
        density: Density | None = None,
    ) -> nn.Module:
        """A smaller plain module, without closed units and without gates.

        This module's estimator, or the density in its place, decides about closed units. Every
        submodule is in the mode, train or eval, of the wrapped one, as :func:`l0func.to_module`
        has it: call ``eval()`` here or on the result before you use it.

        Args:
            example_inputs: As for :func:`l0func.compact`: units left idle go too.
            empty: The treatment of a group without open units, as for :func:`l0func.compact`.
            density: The share of entries that stays, as for :func:`l0func.prune`.

        Returns:
            A smaller copy of the wrapped module.

        Raises:
            ValueError: As for :func:`l0func.compact`.
        """
        check_whole("compacted", net=self)
        fn, params, buffers = make_functional(self.module)
        network = (fn.eval(), params, self.gates(), buffers, self.spec, self._fixed_by(density))
        small = compact(*network, example_inputs=example_inputs, empty=empty, density=density)
        return with_modes(to_module(*small), self.module)

    def get_extra_state(self) -> Tensor:
        """A checkpoint's other parts, the spec and the number of draws so far, as JSON in bytes.

        It is a tensor, because safetensors takes nothing else.
        """
        return checkpoint.extra_state(self.spec, self.draws)

    def set_extra_state(self, state: Any) -> None:
        """Continue the draws of a checkpoint."""
        self.draws = checkpoint.read_extra_state(state)["draws"]

    def train(self, mode: bool = True) -> L0Module:
        """Set training mode, as for any module."""
        super().train(mode)
        # Now, because a compiler could not follow it in forward.
        self._current()
        return self

    def extra_repr(self) -> str:
        """The settings, on one line."""
        return f"lam={self.lam}, per_example={self.per_example}, estimator={self.estimator!r}"

    def _save_to_state_dict(self, destination: Any, prefix: Any, keep_vars: Any) -> None:
        parent: Any = super()
        parent._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}key"] = self.key

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: Any,
        local_metadata: Any,
        strict: Any,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        # Before anything is copied: a checkpoint that does not fit leaves the module as it was.
        checkpoint.check_fits(state_dict, prefix, self.spec)
        path = f"{prefix}key"
        key = checkpoint.saved_key(state_dict, path, self.key)
        if key is None:
            missing_keys.append(path)
        else:
            self.key, self._key_number = key, next_key_number()
        # Into the checkpoint itself: the modules below take their parts out of it later.
        share_tied(self.module, state_dict, f"{prefix}module.")
        others = {name: saved for name, saved in state_dict.items() if name != path}
        parent: Any = super()
        parent._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> L0Module:
        parent: Any = super()
        parent._apply(fn, recurse)
        self.key = kept_integers(fn, self.key)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The function is made again where it is needed.
        written = self._written.current(dict(named_modules(self.module)))
        return {**super().__getstate__(), "_live": None, "_written": written}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_key_number": next_key_number()})

    def __deepcopy__(self, memo: dict[int, Any]) -> L0Module:
        state = self.__getstate__()
        memo.update(detached_results(state))
        copied_module(self.module, memo)
        new: Any = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(state, memo))
        return new

    def _checked(self) -> dict[str, Tensor]:
        gates = gates_beside(self.weights(), resizable(self.gates()), self.spec)
        check_values(gates)
        return gates

    def _current(self) -> Live:
        """The function of the wrapped module as it is now."""
        live = self._live
        if live is None or not live.fits(self.module):
            live = Live(self.module, self._written, self._originals, live)
            check_fits_spec(live.params, self.spec)
            self._live = live
        return live

    def _fixed_by(self, density: Density | None) -> MaskEstimator:
        # A density stands in for the estimator, and the functions refuse a choice of both.
        return self.estimator if density is None else "louizos"

    def _next_key(self, rows: Tensor | None) -> Tensor:
        draws.check_can_draw()
        own = draws.key_of_rank(self.key, self.rank or 0)
        if self.per_example:
            own = apart(own, self._key_number, rows is not None)
        if compiling():
            return random.fold_in(own, self._next_draw())
        with draws.counting():
            draw = self._next_draw()
        return random.fold_in(own, draw)

    def _next_draw(self) -> Tensor:
        # A new tensor, not a change in place: a clone of this module counts for itself.
        self._count = self._count + 1
        return self._count
