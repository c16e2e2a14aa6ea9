"""``L0Module``, the stateful face of the library: a copy of any module, with learned gates."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0func import random
from l0func.compaction.compact import Empty, compact, to_module
from l0func.costs import expected as costs
from l0func.costs.summary import Summary, summary
from l0func.distributions import HardConcrete
from l0func.engine.gated import Gated
from l0func.engine.per_example import PerExample
from l0func.gates.checks import MaskEstimator, check_estimator, check_values
from l0func.gates.init import init_gates
from l0func.internal import outputs
from l0func.pure import init_params as initialisation
from l0func.pure.functional import PureModule, make_functional
from l0func.pure.init_params import Initialiser
from l0func.spec.build import Rules, gate_spec
from l0func.spec.plan import GateSpec, Group

# Two threads in forward at once must have different keys. One lock serves all modules: a module
# with a lock of its own could not be pickled.
_COUNTING = threading.Lock()
_EPSILON = 1e-6


class L0Module(nn.Module):
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
        epsilon: Without effect, kept for old code: draws are from the open interval (0, 1) and
            need no margin.
        rules: The gates by parameter, as for :func:`l0func.gate_spec`; ``{"pattern": None}``
            excludes.
        groups: Gates over slices of several parameters, as for :func:`l0func.gate_spec`.
        init_params: New values for parameters, as for :func:`l0func.init_params`.
        per_example: Whether every example has its own masks in training. Examples are along
            dimension 0 of every input.
        estimator: The test-time gates, for eval mode.
        seed: The seed for all draws; None takes one from ``generator``, or from torch's global
            generator.
        generator: The source of a seed, if none is given.

    Raises:
        ValueError: A rule, droprate, limit or estimator is not valid; see the functions above.

    Example:
        >>> net = L0Module(nn.Linear(3, 2), lam=1e-3, seed=0)
        >>> net(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    key: Tensor

    def __init__(
        self,
        module: nn.Module,
        lam: costs.Lam | Mapping[str, costs.Lam],
        weight_decay: float = 0.0,
        droprate_init: float = 0.2,
        temperature: float = 2 / 3,
        limit_a: float = -0.1,
        limit_b: float = 1.1,
        epsilon: float = _EPSILON,
        *,
        rules: Rules | None = None,
        groups: Mapping[str, Group] | None = None,
        init_params: Mapping[str, Initialiser | None] | None = None,
        per_example: bool = False,
        estimator: MaskEstimator = "louizos",
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_estimator(estimator)
        _check_epsilon(epsilon)
        self.module = copy.deepcopy(module)
        self.lam, self.weight_decay = lam, weight_decay
        self.per_example = per_example
        self.estimator: MaskEstimator = estimator
        self.draws = 0
        params, buffers = self._params(), dict(self.module.named_buffers())
        # Raises now, and not in the first forward, if the module cannot be a pure function.
        PureModule(self.module)
        distribution = HardConcrete(temperature, limit_a, limit_b)
        self.spec = gate_spec(
            params, rules, groups=groups, buffers=buffers, distribution=distribution
        )
        start_key = random.key(_seed(seed, generator))
        gates_key, weights_key, forward_key = random.split(start_key, 3)
        gates = init_gates(gates_key, self.spec, droprate_init, estimator=estimator)
        self.log_alpha = nn.ParameterDict(_as_parameters(gates))
        self.register_buffer("key", forward_key)
        if init_params is not None:
            new = initialisation.init_params(weights_key, params, init_params)
            self._overwrite(params, new)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's output under masks: drawn anew in training, fixed in eval mode.

        Args:
            *inputs: The module's inputs; with ``per_example``, examples are along dimension 0.
            **kwargs: The module's keyword inputs, likewise.

        Returns:
            The module's output.
        """
        apply: Any = Gated(PureModule(self.module), self.spec, self.estimator)
        key = self._next_key() if self.training else None
        if self.per_example and key is not None:
            apply = PerExample(apply)
            key = random.split(key, _batch_size(inputs, kwargs))
        buffers = dict(self.module.named_buffers())
        arguments = (self._params(), self.gates(), buffers, key, *inputs)
        output, updated = apply.with_buffers(*arguments, **kwargs)
        if any(child.training for child in self.module.modules()):
            self._overwrite(buffers, updated)
        return output

    def regularization(self) -> Tensor:
        """The expected L0 and L2 cost, to add to the loss; see :func:`l0func.penalty`."""
        gates = self._checked()
        return costs.penalty(self._params(), gates, self.spec, self.lam, self.weight_decay)

    def count_l0(self) -> Tensor:
        """The expected number of nonzero parameters, including parameters without gates."""
        entries = sum(p.size for p in self.spec.parameters)
        density = 1.0 - costs.expected_sparsity(self._checked(), self.spec)
        return entries * density

    def count_l2(self) -> Tensor:
        """The sum of squared expected weights, masks included, over all parameters."""
        return costs.squared_mean(self._params(), self._checked(), self.spec)

    def gates(self) -> dict[str, Tensor]:
        """The gate locations by name, as the functional core takes them."""
        names = [gate.name for gate in self.spec.gates]
        return {name: self.log_alpha[_stored(name)] for name in names}

    def weights(self) -> dict[str, Tensor]:
        """The module's parameters by path, as the functional core takes them."""
        return self._params()

    def summary(self) -> Summary:
        """The table of :func:`l0func.summary` under this module's estimator."""
        return summary(self._params(), self.gates(), self.spec, self.estimator)

    def compacted(self, example_inputs: Any = None, empty: Empty = "raise") -> nn.Module:
        """A smaller plain module in eval mode, without closed units and without gates.

        This module's estimator decides about closed units; see :func:`l0func.compact`.

        Args:
            example_inputs: A tensor, a tuple of inputs, or a dict of keyword inputs. With
                examples, units that single gates left idle go too.
            empty: The treatment of a group without open units, as for :func:`l0func.compact`.

        Returns:
            A smaller copy of the wrapped module.

        Raises:
            ValueError: As for :func:`l0func.compact`.
        """
        fn, params, buffers = make_functional(self.module)
        network = (fn.eval(), params, self.gates(), buffers, self.spec, self.estimator)
        small = compact(*network, example_inputs=example_inputs, empty=empty)
        return to_module(*small)

    def get_extra_state(self) -> dict[str, Any]:
        """A checkpoint's parts beside tensors: the spec and the number of draws so far."""
        return {"spec": self.spec.to_json(), "draws": self.draws}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of a checkpoint."""
        self.draws = state["draws"]

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which asks for a module to compile in place of this one."""
        raise ValueError(
            "torch.jit.script cannot compile an L0Module: its gates are drawn by Python code. "
            "Script net.compacted(), which is a plain module, or use torch.export or "
            "torch.jit.trace on net.eval()."
        )

    def extra_repr(self) -> str:
        """The settings, on one line."""
        return f"lam={self.lam}, per_example={self.per_example}, estimator={self.estimator!r}"

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
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None:
            _check_same_spec(GateSpec.from_json(saved["spec"]), self.spec)
        gates: dict[str, Tensor] = {}
        for gate in self.spec.gates:
            stored = f"{prefix}log_alpha.{_stored(gate.name)}"
            if stored in state_dict:
                gates[gate.name] = state_dict[stored]
        check_values(gates)
        parent: Any = super()
        parent._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _params(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def _checked(self) -> dict[str, Tensor]:
        gates = self.gates()
        check_values(gates)
        return gates

    def _next_key(self) -> Tensor:
        with _COUNTING:
            self.draws += 1
            draw = self.draws
        return random.fold_in(self.key, draw)

    @torch.no_grad()
    def _overwrite(self, tensors: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.copy_(new[name])


def _stored(name: str) -> str:
    # torch allows no dot in the name of a parameter.
    return name.replace(".", "/")


def _as_parameters(gates: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {_stored(name): nn.Parameter(value) for name, value in gates.items()}


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None:
        return seed
    low, high = -(1 << 63), (1 << 63) - 1
    number = torch.randint(low, high, (), generator=generator, dtype=torch.int64)
    return int(number)


def _check_same_spec(saved: GateSpec, spec: GateSpec) -> None:
    if saved != spec:
        raise ValueError(
            "The checkpoint was saved with another gate spec: the architecture, the rules or the "
            f"distribution changed. It has\n{saved}\nand this module\n{spec}"
        )


def _batch_size(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    for _, leaf in outputs.walk((inputs, kwargs)):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            return leaf.shape[0]
    raise ValueError(
        "per_example=True gives every row of an input its own masks; no input is a tensor with "
        "rows."
    )


def _check_epsilon(epsilon: float) -> None:
    if not 0.0 <= epsilon < 0.5:
        raise ValueError(
            f"epsilon is a distance from 0 and 1 that draws keep, in [0, 1/2); got {epsilon}."
        )
    if epsilon != _EPSILON:
        warnings.warn(
            "epsilon has no effect: draws are on the open interval (0, 1), never closer than 6e-8 "
            "to its ends.",
            stacklevel=3,
        )
