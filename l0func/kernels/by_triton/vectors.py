"""Products of a masked weight with one vector for each key: masks are drawn and never stored.

Every kernel draws a tile of examples × weight rows × columns at a time, and adds its products in
registers. A program owns its result: there are no atomic additions, so that results repeat.
"""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_triton.triton_names import constexpr, tl
from l0func.kernels.by_triton.words import uniforms_by_calls, uniforms_by_entries

draw: Any = None
"""A formula's function; kernels are compiled with it in this place."""


def forward_product(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    a: Any,
    x: Any,
    y: Any,
    batch: Any,
    rows: Any,
    columns: Any,
    repeat: Any,
    first: Any,
    step: Any,
    EXAMPLES: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    ORDER: constexpr,
    BY_CALLS: constexpr,
) -> None:
    """The output vectors: a program makes some numbers of some examples.

    Args:
        keys: int64, ``(batch, 2)``.
        p: The gates, prepared, ``(rows, columns // repeat)``.
        q: As p.
        settings: The formula's.
        a: The weight, ``(rows, columns)``.
        x: Input vectors, ``(batch, columns)``.
        y: Receives output vectors, ``(batch, rows)``.
        batch: The number of keys.
        rows: The weight's rows.
        columns: The weight's columns.
        repeat: Consecutive entries in a row that share a gate.
        first: The first gate's position in every key's stream.
        step: From one row's first gate to the next row's in the stream.
        EXAMPLES: Examples in a tile.
        ROWS: Rows in a tile.
        COLUMNS: Columns in a tile.
        ORDER: 0 for masks, 1 for their slopes.
        BY_CALLS: Whether every row begins with a whole call, and no entries share a gate.
    """
    tiles = (batch + EXAMPLES - 1) // EXAMPLES
    tile, line = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    b = tile.to(tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)[:, None, None]
    o = line.to(tl.int64) * ROWS + tl.arange(0, ROWS)[None, :, None]
    total = tl.zeros((EXAMPLES, ROWS, COLUMNS), tl.float32)
    for start in range(0, columns, COLUMNS):
        i = start + tl.arange(0, COLUMNS)[None, None, :]
        u, own_p, own_q = _tile(
            keys, p, q, b, o, start, batch, rows, columns, repeat, first, step, COLUMNS, BY_CALLS
        )
        gate, slope = draw(u, own_p, own_q, *settings)
        weight = _matrix_entries(a, o, i, rows, columns)
        vector = _matrix_entries(x, b, i, batch, columns)
        total += (slope if ORDER else gate) * (weight * vector)
    place = b * rows + o
    is_own = (b < batch) & (o < rows)
    tl.store(y + place, tl.sum(total, 2, keep_dims=True), mask=is_own)


def backward_product(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    a: Any,
    g: Any,
    x: Any,
    batch: Any,
    rows: Any,
    columns: Any,
    repeat: Any,
    first: Any,
    step: Any,
    part: Any,
    EXAMPLES: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    ORDER: constexpr,
    BY_CALLS: constexpr,
) -> None:
    """The input vectors: a program adds ``part`` weight rows for some examples.

    Args:
        keys: As for :func:`forward_product`, as all that is not named here.
        p: As above.
        q: As above.
        settings: As above.
        a: As above.
        g: Output vectors, ``(batch, rows)``.
        x: Receives the parts of input vectors, ``(parts, batch, columns)``.
        batch: As above.
        rows: As above.
        columns: As above.
        repeat: As above.
        first: As above.
        step: As above.
        part: Weight rows for each part; program axis 1 is the part.
        EXAMPLES: As above.
        ROWS: As above.
        COLUMNS: As above.
        ORDER: As above.
        BY_CALLS: As above.
    """
    tiles = (batch + EXAMPLES - 1) // EXAMPLES
    tile, line = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    b = tile.to(tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)[:, None, None]
    start = line * COLUMNS
    i = start + tl.arange(0, COLUMNS)[None, None, :]
    piece = tl.program_id(1)
    total = tl.zeros((EXAMPLES, ROWS, COLUMNS), tl.float32)
    for row in range(piece * part, tl.minimum((piece + 1) * part, rows), ROWS):
        o = tl.cast(row, tl.int64) + tl.arange(0, ROWS)[None, :, None]
        u, own_p, own_q = _tile(
            keys, p, q, b, o, start, batch, rows, columns, repeat, first, step, COLUMNS, BY_CALLS
        )
        gate, slope = draw(u, own_p, own_q, *settings)
        weight = _matrix_entries(a, o, i, rows, columns)
        vector = _matrix_entries(g, b, o, batch, rows)
        total += (slope if ORDER else gate) * (weight * vector)
    place = (piece * batch + b) * columns + i
    is_own = (b < batch) & (i < columns)
    tl.store(x + place, tl.sum(total, 1, keep_dims=True), mask=is_own)


def outer_product(
    keys: Any,
    p: Any,
    q: Any,
    settings: Any,
    x: Any,
    g: Any,
    sums: Any,
    slope_sums: Any,
    batch: Any,
    rows: Any,
    columns: Any,
    repeat: Any,
    first: Any,
    step: Any,
    part: Any,
    tiles: Any,
    EXAMPLES: constexpr,
    ROWS: constexpr,
    COLUMNS: constexpr,
    VALUES: constexpr,
    SLOPES: constexpr,
    BY_CALLS: constexpr,
) -> None:
    """Output times input times mask, summed over keys: a program adds ``part`` keys.

    Args:
        keys: As for :func:`forward_product`, as all that is not named here.
        p: As above.
        q: As above.
        settings: As above.
        x: As above.
        g: Output vectors, ``(batch, rows)``.
        sums: Receives the parts of the sums over masks, ``(parts, rows, columns)``.
        slope_sums: Receives those over slopes.
        batch: As above.
        rows: As above.
        columns: As above.
        repeat: As above.
        first: As above.
        step: As above.
        part: Keys for each part; program axis 1 is the part.
        tiles: Tiles along the columns; program axis 0 numbers all tiles.
        EXAMPLES: As above.
        ROWS: As above.
        COLUMNS: As above.
        VALUES: Whether to write ``sums``.
        SLOPES: Whether to write ``slope_sums``.
        BY_CALLS: As above.
    """
    program = tl.program_id(0)
    piece = tl.program_id(1)
    o = (program // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[None, :, None]
    start = (program % tiles) * COLUMNS
    i = start + tl.arange(0, COLUMNS)[None, None, :]
    total = tl.zeros((EXAMPLES, ROWS, COLUMNS), tl.float32)
    slope_total = tl.zeros((EXAMPLES, ROWS, COLUMNS), tl.float32)
    for key in range(piece * part, tl.minimum((piece + 1) * part, batch), EXAMPLES):
        b = tl.cast(key, tl.int64) + tl.arange(0, EXAMPLES)[:, None, None]
        u, own_p, own_q = _tile(
            keys, p, q, b, o, start, batch, rows, columns, repeat, first, step, COLUMNS, BY_CALLS
        )
        gate, slope = draw(u, own_p, own_q, *settings)
        product = _matrix_entries(x, b, i, batch, columns) * _matrix_entries(g, b, o, batch, rows)
        total += gate * product
        slope_total += slope * product
    place = (piece * rows + o) * columns + i
    is_own = (o < rows) & (i < columns)
    if VALUES:
        tl.store(sums + place, tl.sum(total, 0, keep_dims=True), mask=is_own)
    if SLOPES:
        tl.store(slope_sums + place, tl.sum(slope_total, 0, keep_dims=True), mask=is_own)


def _tile(
    keys: Any,
    p: Any,
    q: Any,
    b: Any,
    o: Any,
    start: Any,
    batch: Any,
    rows: Any,
    columns: Any,
    repeat: Any,
    first: Any,
    step: Any,
    COLUMNS: constexpr,
    BY_CALLS: constexpr,
) -> Any:
    """Uniforms and prepared gates: examples b × rows o × the columns from ``start`` on."""
    seed = tl.load(keys + 2 * b, mask=b < batch, other=0)
    offset = tl.load(keys + 2 * b + 1, mask=b < batch, other=0)
    line = columns // repeat
    i = start + tl.arange(0, COLUMNS)[None, None, :]
    if BY_CALLS:
        call = (first + o * step + start) // 4 + tl.arange(0, COLUMNS // 4)[None, None, :]
        u = uniforms_by_calls(seed, offset, call)
    else:
        u = uniforms_by_entries(seed, offset, first + o * step + i // repeat)
    is_own = (o < rows) & (i < columns)
    place = o * line + i // repeat
    own_p = tl.load(p + place, mask=is_own, other=1.0)
    own_q = tl.load(q + place, mask=is_own, other=1.0)
    return u, own_p, own_q


def _matrix_entries(matrix: Any, row: Any, column: Any, rows: Any, columns: Any) -> Any:
    """Entries of a matrix, and 0 outside of it."""
    is_own = (row < rows) & (column < columns)
    return tl.load(matrix + row * columns + column, mask=is_own, other=0.0)
