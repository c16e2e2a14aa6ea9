"""L0Module: the promises of the library's first README, in a plain torch.optim loop."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from comparing import close
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BY_NAME, CASES, Case

import l0func as l0

quiet = [c for c in CASES if c.name not in ("weight_norm", "lstm_time_first", "two_inputs")]


def net(**settings: Any) -> l0.L0Module:
    return l0.L0Module(BY_NAME["mlp"].build(), 1e-3, seed=0, **settings)


def reference(module: l0.L0Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    params = {name: p.detach() for name, p in module.module.named_parameters()}
    return params, {name: g.detach() for name, g in module.gates().items()}


@pytest.mark.parametrize("case", quiet, ids=repr)
def test_every_module_trains_and_evaluates(case: Case):
    module = case.build()
    wrapped = l0.L0Module(
        module,
        1e-4,
        weight_decay=1e-3,
        per_example=case.in_dims == 0 and case.out_dims == 0,
        seed=1,
    )
    inputs = case.batch()
    first, second = wrapped.train()(*inputs), wrapped(*inputs)
    leaves = [first, second] if isinstance(first, Tensor) else [first[0], second[0]]
    assert not torch.equal(*leaves)
    (leaves[0].square().mean() + wrapped.regularization()).backward()
    assert all(g.grad is not None for g in wrapped.log_alpha.values())
    wrapped.eval()
    close(wrapped(*inputs), wrapped(*inputs))


def test_the_module_is_copied_and_its_weights_are_kept():
    module = BY_NAME["mlp"].build()
    before = copy.deepcopy(module.state_dict())
    wrapped = l0.L0Module(module, 1e-3, seed=0)
    for name, p in wrapped.module.named_parameters():
        assert torch.equal(p, before[name])
        assert p is not dict(module.named_parameters())[name]
    again = l0.L0Module(
        module, 1e-3, seed=0, init_params={"*.weight": l0.random.normal, "*.bias": "zeros"}
    )
    assert all(
        (p == 0).all() for name, p in again.module.named_parameters() if name.endswith("bias")
    )
    assert torch.equal(module.state_dict()["0.weight"], before["0.weight"])


def test_counts_and_regularization_are_those_of_the_functional_core():
    wrapped = net(weight_decay=0.3, droprate_init=0.4)
    params, gates = reference(wrapped)
    torch.testing.assert_close(
        wrapped.regularization().detach(), l0.penalty(params, gates, wrapped.spec, 1e-3, 0.3)
    )
    torch.testing.assert_close(wrapped.count_l0().detach(), l0.expected_l0(gates, wrapped.spec))
    masked = l0.apply_masks(params, l0.mean_masks(gates, wrapped.spec))
    torch.testing.assert_close(
        wrapped.count_l2().detach(), sum((p**2).sum() for p in masked.values())
    )
    assert str(wrapped.summary()) == str(l0.summary(params, gates, wrapped.spec))


def test_excluded_parameters_count_as_retained():
    wrapped = net(rules={"*.bias": None, "*": l0.element()})
    with torch.no_grad():
        for g in wrapped.log_alpha.values():
            g.fill_(-50.0)
    assert wrapped.count_l0().item() == pytest.approx(6 + 3, abs=1e-3)
    assert set(wrapped.gates()) == {"0.weight", "2.weight"}


def test_eval_mode_uses_the_chosen_estimator():
    x = torch.randn(5, 4)
    for estimator in ("louizos", "median", "mean", "count"):
        wrapped = net(estimator=estimator, droprate_init=0.3).eval()
        params, gates = reference(wrapped)
        masked = l0.apply_masks(params, l0.deterministic_masks(gates, wrapped.spec, estimator))
        close(wrapped(x), torch.func.functional_call(wrapped.module, masked, x))


def test_per_example_gives_every_row_its_own_mask():
    x = torch.ones(64, 4)
    shared, own = net()(x), net(per_example=True)(x)
    assert (shared == shared[0]).all()
    assert len({tuple(row.tolist()) for row in own}) == 64


def test_a_plain_training_loop_finds_the_one_input_that_matters():
    torch.manual_seed(0)
    wrapped = l0.L0Module(nn.Linear(6, 1), 1e-2, per_example=True, seed=0)
    groups = [
        {"params": list(wrapped.weights().values()), "lr": 0.05},
        {"params": list(wrapped.gates().values()), "lr": 0.1},
    ]
    optimizer = torch.optim.Adam(groups)
    for _ in range(400):
        x = torch.randn(32, 6)
        loss = F.mse_loss(wrapped(x), x[:, :1]) + wrapped.regularization()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert wrapped.summary().total.realised_open == 1
    assert wrapped.summary()["weight"].realised_open == 1


def test_batchnorm_statistics_are_kept_as_in_a_module():
    case = BY_NAME["cnn_train"]
    for per_example in (False, True):
        wrapped = l0.L0Module(case.build(), 0.0, per_example=per_example, seed=0)
        wrapped(*case.batch())
        wrapped(*case.batch())
        assert wrapped.module[1].num_batches_tracked.item() == 2
        assert wrapped.module[1].running_mean.abs().sum() > 0
        statistics = wrapped.module[1].running_mean.clone()
        wrapped.eval()(*case.batch())
        assert torch.equal(wrapped.module[1].running_mean, statistics)


def test_seeds_and_generators_determine_the_draws():
    x = torch.randn(5, 4)
    assert torch.equal(net()(x), net()(x))
    assert not torch.equal(net()(x), l0.L0Module(BY_NAME["mlp"].build(), 1e-3, seed=1)(x))
    drawn = [
        l0.L0Module(BY_NAME["mlp"].build(), 1e-3, generator=torch.Generator().manual_seed(3))(x)
        for _ in range(2)
    ]
    assert torch.equal(*drawn)
    torch.manual_seed(5)
    first = l0.L0Module(BY_NAME["mlp"].build(), 1e-3)(x)
    torch.manual_seed(5)
    assert torch.equal(first, l0.L0Module(BY_NAME["mlp"].build(), 1e-3)(x))


def _step(wrapped: l0.L0Module, number: int) -> None:
    x = l0.random.normal(l0.random.key(number), (5, 4))
    (wrapped(x).square().mean() + wrapped.regularization()).backward()
    with torch.no_grad():
        for p in wrapped.parameters():
            p -= 0.1 * p.grad
            p.grad = None


@pytest.mark.parametrize("road", ["state_dict", "pickle", "deepcopy", "torch.save"])
def test_saved_loaded_and_continued_equals_uninterrupted(road):
    whole = net(per_example=True)
    for number in range(6):
        _step(whole, number)
    half = net(per_example=True)
    for number in range(3):
        _step(half, number)
    if road == "state_dict":
        file = io.BytesIO()
        torch.save(half.state_dict(), file)
        file.seek(0)
        resumed = l0.L0Module(BY_NAME["mlp"].build(), 1e-3, per_example=True, seed=99)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    elif road == "pickle":
        resumed = pickle.loads(pickle.dumps(half))
    elif road == "deepcopy":
        resumed = copy.deepcopy(half)
    else:
        file = io.BytesIO()
        torch.save(half, file)
        file.seek(0)
        resumed = (
            torch.load(file, weights_only=False)
            if hasattr(torch.compiler, "is_compiling")
            else torch.load(file)
        )
    for number in range(3, 6):
        _step(resumed, number)
    for name, tensor in whole.state_dict().items():
        if isinstance(tensor, Tensor):
            assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert resumed.draws == whole.draws == 6


def test_threads_may_call_forward_at_once_and_each_draws_anew():
    wrapped = net(per_example=True)
    x = torch.ones(3, 4)
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda _: wrapped(x), range(32)))
    again = net(per_example=True)
    expected = {tuple(again(x).flatten().tolist()) for _ in range(32)}
    assert {tuple(output.flatten().tolist()) for output in outputs} == expected
    assert len(expected) == 32


def test_it_moves_between_dtypes_and_devices_as_a_module_does():
    wrapped = net().to(torch.float64)
    assert wrapped(torch.ones(2, 4, dtype=torch.float64)).dtype == torch.float64
    assert wrapped.key.dtype == torch.int64
    half = net().to(torch.bfloat16)
    assert half(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    meta = net().to("meta")
    assert meta.regularization().device.type == "meta"
    assert meta.key.device.type == "meta"


def test_a_module_inside_a_module_saves_with_it():
    outer = nn.Sequential(net(), nn.Linear(3, 1))
    twin = nn.Sequential(l0.L0Module(BY_NAME["mlp"].build(), 1e-3, seed=8), nn.Linear(3, 1))
    outer(torch.ones(2, 4))
    twin.load_state_dict(outer.state_dict())
    assert torch.equal(twin(torch.ones(2, 4)), outer(torch.ones(2, 4)))


def test_a_checkpoint_that_does_not_fit_changes_nothing():
    wrapped = net()
    before = {name: t.clone() for name, t in wrapped.state_dict().items() if isinstance(t, Tensor)}
    broken = copy.deepcopy(wrapped.state_dict())
    broken["log_alpha.0/weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 24 gate locations of '0.weight' are NaN"):
        wrapped.load_state_dict(broken)
    other = l0.L0Module(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)), 1e-3, seed=0)
    with pytest.raises(ValueError, match="saved with another gate spec"):
        wrapped.load_state_dict(other.state_dict())
    assert all(torch.equal(t, wrapped.state_dict()[name]) for name, t in before.items())


@pytest.mark.parametrize("strict", [True, False])
def test_a_plain_state_dict_is_sent_to_the_module_inside(strict: bool):
    wrapped, plain = net(), BY_NAME["mlp"].build()
    with pytest.raises(ValueError, match=r"'0.weight', .* 'module.0.weight'.* net.module.load"):
        wrapped.load_state_dict(plain.state_dict(), strict=strict)
    outer, state = nn.Sequential(nn.ReLU(), wrapped), nn.Sequential(nn.ReLU(), plain).state_dict()
    with pytest.raises(ValueError, match=r"it has '1.0.weight', .* L0Module has '1.module.0.w"):
        outer.load_state_dict(state, strict=strict)
    wrapped.module.load_state_dict(plain.state_dict())
    assert torch.equal(wrapped.weights()["0.weight"], plain[0].weight)


def test_a_state_of_other_names_is_left_to_torch():
    wrapped, other = net(), nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
    found = wrapped.load_state_dict(other.state_dict(), strict=False)
    assert found.unexpected_keys == ["1.weight", "1.bias"]
    parts = {name: t for name, t in wrapped.state_dict().items() if name.startswith("module.")}
    assert not wrapped.load_state_dict(parts, strict=False).unexpected_keys


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.5}, {"limit_a": -0.2}, {"distribution": l0.GaussianGate()}],
    ids=str,
)
def test_a_checkpoint_of_another_distribution_names_both(settings):
    linear = nn.Linear(3, 2)
    own, other = (l0.L0Module(linear, 1e-3, seed=0, **kind) for kind in ({}, settings))
    there, here = (net.spec.gates[0].distribution for net in (other, own))
    with pytest.raises(ValueError, match="another gate spec") as caught:
        own.load_state_dict(other.state_dict())
    assert f"'weight' is {there} there and {here} here" in str(caught.value)
    assert "Build the L0Module with that distribution" in str(caught.value)


def test_settings_that_are_wrong_are_named():
    mlp = BY_NAME["mlp"].build()
    with pytest.raises(ValueError, match=r"strictly between 0 and 1; got 1.0"):
        l0.L0Module(mlp, 1e-3, droprate_init=1.0)
    with pytest.raises(ValueError, match=r"gamma=0.1"):
        l0.L0Module(mlp, 1e-3, limit_a=0.1)
    with pytest.raises(ValueError, match="epsilon is a distance"):
        l0.L0Module(mlp, 1e-3, epsilon=0.7)
    with pytest.warns(UserWarning, match="epsilon has no effect"):
        l0.L0Module(mlp, 1e-3, epsilon=1e-3)
    with pytest.raises(
        ValueError, match=r"estimators are .*got 'medain'; the closest is 'median'"
    ):
        l0.L0Module(mlp, 1e-3, estimator="medain")
    with pytest.raises(ValueError, match="no parameters to gate"):
        l0.L0Module(nn.ReLU(), 1e-3)
    with pytest.raises(ValueError, match="no input is a tensor with rows"):
        net(per_example=True)()
    wrapped = net()
    with torch.no_grad():
        wrapped.log_alpha["2/bias"][1] = float("nan")
    for use in (wrapped.regularization, wrapped.count_l0, wrapped.count_l2, wrapped.summary):
        with pytest.raises(ValueError, match=r"1 of 3 gate locations of '2.bias' are NaN"):
            use()


def test_a_compacted_module_is_plain_small_and_gives_what_eval_mode_gave():
    case = BY_NAME["cnn"]
    plain = case.build()
    net = l0.L0Module(plain, lam=1e-3, groups=l0.unit_groups(plain, case.batch()), seed=0)
    with torch.no_grad():
        net.log_alpha["0"].copy_(torch.tensor([2.0, -20.0, 0.5]))
    small = net.eval().compacted()
    assert not any(type(m).__module__.startswith("l0func") for m in small.modules())
    assert not any(m.training for m in small.modules())
    assert sum(p.numel() for p in small.parameters()) == net.summary().total.realised_open
    torch.testing.assert_close(small(*case.batch()), net(*case.batch()))
    with torch.no_grad():
        net.log_alpha["0"].fill_(-20.0)
    with pytest.raises(ValueError, match="All 3 units of '0' are closed"):
        net.compacted()
    torch.testing.assert_close(net.compacted(empty="constant")(*case.batch()), net(*case.batch()))


def test_single_gates_leave_idle_units_that_go_with_examples():
    net = l0.L0Module(
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)),
        lam=1e-3,
        rules={"*.weight": l0.element()},
        seed=0,
    )
    with torch.no_grad():
        net.log_alpha["2/weight"][:, 1:3] = -20.0
    assert net.eval().compacted()[0].out_features == 5
    small = net.compacted(torch.randn(4, 3))
    assert small[0].out_features == 3
    x = torch.randn(6, 3)
    torch.testing.assert_close(small(x), net(x))
