"""Attention in plain operations equals torch's own, and every transform follows it."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from device import seeded_generator
from torch import Tensor
from torch.nn import functional as F

from l0func.pure.written_out.attention import scaled_dot_product_attention
from l0func.pure.written_out.multi_head import multi_head_attention_forward

N, H, L, S, E = 2, 2, 4, 3, 6
OUT, LOWEST = float("-inf"), torch.finfo(torch.float64).min
SHOWN = [{"need_weights": False}, {"average_attn_weights": True}, {"average_attn_weights": False}]
GQA = "enable_gqa" in (F.scaled_dot_product_attention.__doc__ or "")
close = torch.testing.assert_close


def untouched(x: Tensor, p: float) -> Tensor:
    raise AssertionError("dropout was drawn where none is active")


sdpa = partial(scaled_dot_product_attention, dropout=untouched)
mha = partial(multi_head_attention_forward, dropout=untouched)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded_generator(seed))


def mask(*shape: int, kind: str = "bool") -> Tensor:
    """True, or -inf, where attention is blocked; the first key is open to all."""
    blocked = draw(*shape, seed=7) > 0.3
    blocked[..., 0] = False
    return blocked if kind == "bool" else draw(*shape, seed=8).masked_fill(blocked, OUT)


def with_gradients(f: Any, *leaves: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
    leaves = tuple(x.detach().requires_grad_() for x in leaves)
    output = f(*leaves)
    seen = [y for y in (output if isinstance(output, tuple) else (output,)) if y is not None]
    loss = sum((y * torch.arange(y.numel()).cos().reshape(y.shape)).sum() for y in seen)
    return output, torch.autograd.grad(loss, leaves, allow_unused=True)


def multi_head(
    bias: bool = False, zero: bool = False, separate: bool = False, batched: bool = True
) -> dict[str, Any]:
    """Keyword arguments for multi-head attention of L queries to S keys."""
    kdim, vdim, batch = 5 if separate else E, 4 if separate else E, [N] if batched else []
    shapes = {
        "query": (L, *batch, E),
        "key": (S, *batch, kdim),
        "value": (S, *batch, vdim),
        "in_proj_bias": (3 * E,),
    }
    shapes |= {"out_proj_weight": (E, E), "out_proj_bias": (E,)}
    separately = {"q_proj_weight": (E, E), "k_proj_weight": (E, kdim), "v_proj_weight": (E, vdim)}
    shapes |= separately if separate else {"in_proj_weight": (3 * E, E)}
    shapes |= {"bias_k": (1, 1, E), "bias_v": (1, 1, E)} if bias else {}
    tensors = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    static = {"embed_dim_to_check": E, "num_heads": H, "add_zero_attn": zero, "dropout_p": 0.0}
    static |= {
        "in_proj_weight": None,
        "bias_k": None,
        "bias_v": None,
        "use_separate_proj_weight": separate,
    }
    return static | tensors


MODEL = multi_head(bias=True, zero=True)
QKV = (draw(N, H, L, E), draw(N, H, S, E, seed=1), draw(N, H, S, 5, seed=2))
OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "allowed": {"attn_mask": ~mask(L, S)},
    "allowed for each head": {"attn_mask": ~mask(N, H, L, S), "scale": 2.0},
    "added for each": {"attn_mask": mask(N, 1, L, S, kind="float")},
    "lowest and blocked": {
        "attn_mask": draw(L, 1) + torch.tensor([LOWEST, LOWEST, OUT], dtype=torch.float64)
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_written_out_attention_equals_torch_attention(option):
    ours, theirs = (partial(f, **OPTIONS[option]) for f in (sdpa, F.scaled_dot_product_attention))
    close(with_gradients(ours, *QKV), with_gradients(theirs, *QKV))


def test_shared_heads_equal_repeated_heads():
    q, k, v = draw(N, 6, L, E), *QKV[1:]
    repeated = F.scaled_dot_product_attention(
        q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    )
    close(sdpa(q, k, v, enable_gqa=True), repeated)
    if GQA:
        close(repeated, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


def test_a_mask_and_causality_block_together():
    both = mask(L, S) | torch.ones(L, S, dtype=torch.bool).triu(1)
    close(
        sdpa(*QKV, attn_mask=~mask(L, S), is_causal=True),
        F.scaled_dot_product_attention(*QKV, attn_mask=~both),
    )


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_may_attend_to_nothing_gives_zero_and_finite_gradients(kind):
    blocked = mask(L, S).index_fill(0, torch.tensor(1), True)
    given = ~blocked if kind == "bool" else torch.zeros(L, S).double().masked_fill(blocked, OUT)
    output, slopes = with_gradients(lambda *x: sdpa(*x, attn_mask=given), *QKV)
    assert not output[:, :, 1].any()
    assert all(slope.isfinite().all() for slope in slopes)
    if GQA:  # Older versions give NaN.
        close(
            (output, slopes),
            with_gradients(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=given), *QKV),
        )
    attended, weights = mha(**multi_head(), attn_mask=blocked)
    assert not weights[:, 1].any()
    close(attended[1], multi_head()["out_proj_bias"].expand(N, E))


def test_dropout_acts_on_the_attention_weights():
    (q, k, v), keep = QKV, torch.tensor([0.0, 2.0, 1.0]).double()
    dropped = sdpa(*QKV, dropout_p=0.25, dropout=lambda w, p: w * keep + p - 0.25)
    close(dropped, F.scaled_dot_product_attention(q, k, v * keep[:, None]))
    names, static = multi_head() | {"dropout_p": 0.5}, draw(N * H, S, E // H)
    ours = mha(**names, static_v=static, training=True, dropout=lambda w, p: w * keep + p - 0.5)[0]
    close(ours, mha(**names, static_v=static * keep[:, None], training=False)[0])


def masks(dims: int, padded: bool, kind: str, batched: bool) -> dict[str, Tensor]:
    first = {0: None, 2: (), 3: (N * H if batched else H,)}[dims]
    found = {} if first is None else {"attn_mask": mask(*first, L, S, kind=kind)}
    return found | (
        {"key_padding_mask": mask(*([N] if batched else []), S, kind=kind)} if padded else {}
    )


def same(names: dict[str, Any]) -> None:
    """Values, and gradients for every floating tensor, are those of torch."""
    leaves = {n: x for n, x in names.items() if isinstance(x, Tensor) and x.is_floating_point()}

    def run(f: Any) -> Any:
        return with_gradients(
            lambda *x: f(**names | dict(zip(leaves, x, strict=True))), *leaves.values()
        )

    close(run(mha), run(F.multi_head_attention_forward))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("bias", "zero", "separate"), list(product([False, True], repeat=3)))
@pytest.mark.parametrize(
    ("dims", "padded", "kind"), list(product([0, 2, 3], [False, True], ["bool", "float"]))
)
def test_written_out_multi_head_attention_equals_torch(
    bias, zero, separate, dims, padded, kind, batched
):
    for shown in SHOWN:
        same(
            multi_head(bias, zero, separate, batched) | masks(dims, padded, kind, batched) | shown
        )


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_statics_hints_mixed_masks_missing_biases_and_empty_batches_are_those_of_torch(shown):
    names = multi_head(zero=True) | shown
    same(names | {"static_k": draw(N * H, 5, E // H), "static_v": draw(N * H, 5, E // H, seed=3)})
    same(names | {"in_proj_bias": None, "out_proj_bias": None})
    same(names | {"query": draw(L, 0, E), "key": draw(S, 0, E), "value": draw(S, 0, E)})
    added, padding = (
        mask(L, S, kind="float"),
        torch.zeros(N, S).double().masked_fill(mask(N, S), OUT),
    )
    mixed = mha(**names, attn_mask=added, key_padding_mask=mask(N, S))
    close(
        mixed, F.multi_head_attention_forward(**names, attn_mask=added, key_padding_mask=padding)
    )
    causal = torch.ones(L, S, dtype=torch.bool).triu(1)
    same(names | {"add_zero_attn": False, "attn_mask": causal, "is_causal": True})


WRONG = {
    "a multiple of heads; got 6": {"num_heads": 4},
    "give the mask too": {"is_causal": True},
    "bias_k and bias_v come together": {"bias_k": draw(1, 1, E)},
    "cannot be appended to static": {
        "bias_k": draw(1, 1, E),
        "bias_v": draw(1, 1, E),
        "static_k": draw(4, S, 3),
    },
    r"attn_mask has shape \(4, 3\) or \(4, 4, 3\) .* got \(6, 4, 3\)": {
        "attn_mask": mask(6, L, S)
    },
    r"padding_mask has shape \(2, 3\) or \(3,\) .* got \(3, 3\)": {"key_padding_mask": mask(3, S)},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_that_do_not_fit_are_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        mha(**multi_head() | WRONG[message])


def whole(query: Tensor, key: Tensor, w_in: Tensor, blocked: Tensor) -> Tensor:
    """Multi-head attention with every input that a transform may map, then a scaled product."""
    inputs = {"query": query, "key": key, "value": key, "in_proj_weight": w_in}
    y = mha(**MODEL | inputs, attn_mask=blocked, key_padding_mask=blocked[:N])[0]
    return sdpa(y, y, y, attn_mask=~blocked[:1, :N], is_causal=True)


def rows(n: int) -> tuple[Tensor, ...]:
    return draw(n, L, N, E), draw(n, S, N, E, seed=1), draw(n, 3 * E, E, seed=2), mask(n, L, S)


def test_mapped_rows_equal_a_loop_over_them():
    close(
        torch.vmap(whole)(*rows(3)),
        torch.stack([whole(*row) for row in zip(*rows(3), strict=True)]),
    )
    slope = torch.func.grad(lambda *x: whole(*x).sum(), (0, 1, 2))
    looped = [slope(*row) for row in zip(*rows(3), strict=True)]
    close(torch.vmap(slope)(*rows(3)), tuple(map(torch.stack, zip(*looped, strict=True))))


def test_first_and_second_derivatives_are_differences_in_both_modes():
    *leaves, blocked = (x[0] for x in rows(1))
    leaves, f = tuple(x.requires_grad_() for x in leaves), partial(whole, blocked=blocked)
    assert torch.autograd.gradcheck(
        f, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.compiles
def test_compiled_attention_equals_eager():
    f = torch.func.grad(lambda *x: torch.vmap(whole)(*x).sum(), (0, 1, 2))
    close(torch.compile(f, fullgraph=True, backend="aot_eager")(*rows(2)), f(*rows(2)))
