"""Shapes of recurrent networks and cells, as torch asks: plain operations would broadcast them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_cell(
    name: str, blocks: int, input: Tensor, hidden: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor
) -> None:
    """Refuse a step on shapes that do not fit.

    Args:
        name: The torch function.
        blocks: Blocks of rows in each weight: 4 for an LSTM, 3 for a GRU, 1 for an Elman unit.
        input: Shape ``(N, I)``.
        hidden: The hidden states, each ``(N, H)``.
        w_ih: Shape ``(blocks * H, I)``.
        w_hh: Shape ``(blocks * H, H)``.

    Raises:
        ValueError: They do not.
    """
    size = w_hh.shape[-1]
    wanted = (*input.shape[:-1], size)
    fits = all(tuple(state.shape) == wanted for state in hidden)
    if not fits or w_ih.shape[0] != blocks * size or w_hh.shape[0] != blocks * size:
        states = ", ".join(str(tuple(state.shape)) for state in hidden)
        raise ValueError(
            f"torch function {name!r} takes hidden states {wanted} and weights of {blocks} x "
            f"{size} rows for an input {tuple(input.shape)}; got states {states} and weights "
            f"{tuple(w_ih.shape)} and {tuple(w_hh.shape)}."
        )


def check_network(
    name: str,
    input: Tensor,
    hidden: Sequence[Tensor],
    weights: int,
    has_biases: bool,
    cells: int,
) -> None:
    """Refuse a network on shapes that do not fit.

    Args:
        name: The torch function.
        input: Of three dimensions.
        hidden: The initial hidden states, each ``(cells, N, H)``.
        weights: The number of weights.
        has_biases: Whether there are biases.
        cells: Layers times directions.

    Raises:
        ValueError: They do not.
    """
    each, rest = divmod(weights, cells)
    if rest or each not in ((4, 5) if has_biases else (2, 3)):
        raise ValueError(
            f"torch function {name!r} takes {4 if has_biases else 2} weights for each layer and "
            f"direction, and one more with a projection; got {weights} weights for {cells}."
        )
    shapes = [tuple(state.shape) for state in hidden]
    if input.dim() != 3 or any(len(shape) != 3 or shape[0] != cells for shape in shapes):
        raise ValueError(
            f"torch function {name!r} takes an input of 3 dimensions and hidden states of shape "
            f"({cells}, N, H), one for each layer and direction; got {tuple(input.shape)} and "
            f"{', '.join(map(str, shapes))}."
        )
