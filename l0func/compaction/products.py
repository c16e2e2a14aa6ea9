"""Products with a parameter: each matrix product or convolution, as rows of inputs and outputs.

Both are linear maps: every output row is a matrix times an input row, plus a bias. For a
convolution an input row is a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from l0func.internal.untyped import loose
from l0func.tracing.call import operation_name, tensors_in_lists

Extent = tuple[str, tuple[int, ...], tuple[int, ...], int]
"""A part of a parameter: its path, and the part's sizes, strides and offset."""


class Matrix(NamedTuple):
    """A part of a parameter as the matrix of a product.

    Attributes:
        path: The parameter's path.
        part: The part, a view on the parameter.
        bias: The vector that is added, a view on a parameter; None if there is none.
        bias_path: The path to that parameter.
        transposed: Whether the part is the kernel of a transposed convolution.
    """

    path: str
    part: Tensor
    bias: Tensor | None = None
    bias_path: str = ""
    transposed: bool = False
    members: bool = False
    """Whether the part is a batch of matrices, one for each member."""

    @property
    def extent(self) -> Extent:
        """The part of the parameter that the matrix is."""
        return _extent_of(self.path, self.part)

    @property
    def bias_extent(self) -> Extent | None:
        """The part of a parameter that the bias is."""
        return None if self.bias is None else _extent_of(self.bias_path, self.bias)

    def entries(self, tensor: Tensor) -> Tensor:
        """The matrix's entries in a tensor of the parameter's shape, (outputs, columns)."""
        _, sizes, strides, offset = self.extent
        return self._matrix(tensor.contiguous().as_strided(sizes, strides, offset))

    def values(self) -> Tensor:
        """The matrix, shape (outputs, columns)."""
        return self._matrix(self.part)

    def write(self, values: Tensor) -> None:
        """Write the matrix into the parameter."""
        if not self.transposed:
            self.part.copy_(values.reshape(self.part.shape))
            return
        inputs, outputs, *kernel = self.part.shape
        flipped = values.reshape(outputs, inputs, *kernel).movedim(1, 0)
        self.part.copy_(flipped.flip(list(range(2, self.part.dim()))))

    def _matrix(self, part: Tensor) -> Tensor:
        if self.transposed:
            part = part.flip(list(range(2, part.dim()))).movedim(1, 0)
        return part.flatten(0, 1) if self.members else part.flatten(1)


def _extent_of(path: str, part: Tensor) -> Extent:
    return path, tuple(part.shape), tuple(part.stride()), int(part.storage_offset())


def overlap(size: int, extents: Iterable[Extent]) -> bool:
    """Whether any two parts of a parameter with so many entries have an entry in common."""
    seen = torch.zeros(size, dtype=torch.bool, device="cpu")
    for _, sizes, strides, offset in extents:
        part = seen.as_strided(sizes, strides, offset)
        if part.any():
            return True
        part.fill_(True)
    return False


class Product(NamedTuple):
    """One product of a parameter with activations.

    Attributes:
        matrix: The parameter's part in it.
        blocks: The input rows in blocks, each of shape (rows, columns).
        outputs: The output rows of the call in the same blocks, each of shape (rows, outputs).
        fits: Whether the blocks are there. They are not where each group has a matrix.
    """

    matrix: Matrix
    blocks: Callable[[], Iterator[Tensor]]
    outputs: Callable[[Tensor], Iterator[Tensor]]
    fits: bool = True


Visit = Callable[[Product, Callable[[], Tensor]], Tensor]
"""``visit(product, run)`` gives a product's output, and ``run()`` computes it."""


class Products(TorchDispatchMode):
    """A context that shows every product of a parameter to ``visit``.

    Args:
        params: The parameters of the call; contiguous tensors with storages of their own.
        visit: Called for every product; it may write into the product's matrix.

    Attributes:
        read_otherwise: The parameters that other operations read, too.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        visit: Visit,
    ) -> None:
        cast("Any", super()).__init__()
        self._paths = {_address(tensor): path for path, tensor in params.items()}
        self._visit = visit
        self.read_otherwise: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        find = _PRODUCT_FINDERS.get(operation_name(func))
        product = None if find is None else find(self, *args)

        def run() -> Tensor:
            return func(*args, **named)

        if product is not None:
            matrix = product.matrix
            self.read_otherwise |= self._read(args) - {matrix.path, matrix.bias_path}
            return self._visit(product, run)
        if not func.is_view:
            self.read_otherwise |= self._read(args)
        return run()

    def _read(self, args: tuple[Any, ...]) -> set[str]:
        """The parameters among these arguments."""
        paths = {self._path(tensor) for tensor in tensors_in_lists(args)}
        return {path for path in paths if path is not None}

    def matrix(self, part: Tensor, bias: Tensor | None, transposed: bool = False) -> Matrix | None:
        """The matrix that is this part, if the part is a parameter's own."""
        path = self._path(part)
        if path is None:
            return None
        bias_path = None if bias is None or bias.dim() != 1 else self._path(bias)
        if bias_path is None:
            return Matrix(path, part, transposed=transposed)
        return Matrix(path, part, bias, bias_path, transposed)

    def _path(self, tensor: Tensor) -> str | None:
        return self._paths.get(_address(tensor))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _matrix_product(
    products: Products, a: Tensor, b: Tensor, bias: Tensor | None = None
) -> Product | None:
    right = products.matrix(_one(b).mT, bias)
    if right is not None:
        return _rows(right, a, turned=False)
    left = products.matrix(_one(a), None)
    return None if left is None else _rows(left, b.mT, turned=True)


def _one(matrix: Tensor) -> Tensor:
    """A matrix without the dimension along which a batched product repeats it."""
    repeated = matrix.dim() == 3 and (len(matrix) == 1 or matrix.stride(0) == 0)
    return matrix[0] if repeated else matrix


def _biased_product(
    products: Products, bias: Tensor, a: Tensor, b: Tensor, *_: Any
) -> Product | None:
    return _matrix_product(products, a, b, bias)


def _linear_product(
    products: Products, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Product | None:
    matrix = products.matrix(weight, bias)
    return None if matrix is None else _rows(matrix, x, turned=False)


def _no_rows(*_: Tensor) -> Iterator[Tensor]:
    return iter(())


def _row_blocks(tensor: Tensor, size: int) -> Iterator[Tensor]:
    blocks: tuple[Tensor, ...] = loose(tensor).split(size)
    return iter(blocks)


_BLOCK_OF_ROWS = 2**20
"""Entries in a block of input rows."""


def _rows(matrix: Matrix, x: Tensor, turned: bool) -> Product | None:
    """A product whose input rows lie along the last dimension of x.

    Args:
        matrix: The matrix; a batched product may have one for each member.
        x: The inputs, shape (*, rows, columns).
        turned: Whether the output has its rows along the last dimension.
    """
    if matrix.part.dim() != 2:
        return Product(matrix._replace(members=True), _no_rows, _no_rows, fits=False)
    step = max(1, _BLOCK_OF_ROWS // max(1, x.shape[-1]))

    def cut(tensor: Tensor) -> Iterator[Tensor]:
        return _row_blocks(tensor.reshape(-1, tensor.shape[-1]), step)

    def outputs(output: Tensor) -> Iterator[Tensor]:
        return cut(output.mT if turned else output)

    return Product(matrix, lambda: cut(x), outputs)


def _convolution_product(
    products: Products,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *_: Any,
) -> Product | None:
    kernel = products.matrix(weight, bias, transposed and groups == 1)
    if kernel is None:
        return None
    if groups > 1:
        return Product(kernel, _no_rows, _no_rows, fits=False)
    settings = (stride, padding, dilation, output_padding)
    window = _window(weight, [_per_axis(values, x.dim() - 2) for values in settings], transposed)
    images = max(1, _BLOCK_OF_ROWS // max(1, window.entries(x)))

    def blocks() -> Iterator[Tensor]:
        return map(window.patches, _row_blocks(x, images))

    def outputs(output: Tensor) -> Iterator[Tensor]:
        for block in _row_blocks(output, images):
            yield block.movedim(1, -1).flatten(0, -2)

    return Product(kernel, blocks, outputs)


def _per_axis(values: list[int], count: int) -> tuple[int, ...]:
    return tuple(values) * count if len(values) == 1 else tuple(values)


def _window(weight: Tensor, settings: list[tuple[int, ...]], transposed: bool) -> _Window:
    axes: list[_Axis] = []
    for k, s, p, d, more in zip(weight.shape[2:], *settings, strict=True):
        if transposed:
            # A transposed convolution is a plain one over inputs with zeros between them.
            border = d * (k - 1) - p
            axes.append(_Axis(k, 1, border, border + more, d, s))
        else:
            axes.append(_Axis(k, s, p, p, d, 1))
    return _Window(tuple(axes))


class _Axis(NamedTuple):
    """A window along one spatial dimension.

    Attributes:
        kernel: The kernel's size.
        stride: The distance between places.
        before: Zeros before the input; negative to leave inputs out.
        after: Zeros after it.
        dilation: The distance between inputs in one place.
        spread: The distance between neighbouring inputs, with zeros between them.
    """

    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    spread: int

    def places(self, size: int) -> int:
        """The number of places along an input of this size."""
        wide = (size - 1) * self.spread + 1 + self.before + self.after
        return (wide - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


class _Window(NamedTuple):
    """A convolution's window, an axis for each spatial dimension."""

    axes: tuple[_Axis, ...]

    def places(self, x: Tensor) -> list[int]:
        """The number of places along each spatial dimension."""
        return [axis.places(size) for axis, size in zip(self.axes, x.shape[2:], strict=True)]

    def entries(self, x: Tensor) -> int:
        """Entries in the patches of one image."""
        kernel = math.prod(axis.kernel for axis in self.axes)
        return math.prod(self.places(x)) * kernel * x.shape[1]

    def patches(self, x: Tensor) -> Tensor:
        """The patches, shape (images * places, channels * kernel)."""
        padded = self._padded(x)
        image, channel, *steps = padded.stride()
        across = [step * axis.stride for step, axis in zip(steps, self.axes, strict=True)]
        within = [step * axis.dilation for step, axis in zip(steps, self.axes, strict=True)]
        places = self.places(x)
        sizes = (len(x), *places, x.shape[1], *(axis.kernel for axis in self.axes))
        view = padded.as_strided(sizes, (image, *across, channel, *within))
        return view.reshape(len(x) * math.prod(places), -1)

    def _padded(self, x: Tensor) -> Tensor:
        for dim, axis in enumerate(self.axes, 2):
            x = _spread(x, dim, axis.spread)
        border = [n for axis in reversed(self.axes) for n in (axis.before, axis.after)]
        return F.pad(x, border).contiguous()


def _spread(x: Tensor, dim: int, step: int) -> Tensor:
    """The same inputs with ``step - 1`` zeros between neighbours along one dimension."""
    if step == 1:
        return x
    sizes = list(x.shape)
    sizes[dim] = (sizes[dim] - 1) * step + 1
    wide = x.new_zeros(sizes)
    wide.movedim(dim, 0)[::step] = x.movedim(dim, 0)
    return wide


_PRODUCT_FINDERS: dict[str, Callable[..., Product | None]] = {
    "mm": _matrix_product,
    "bmm": _matrix_product,
    "addmm": _biased_product,
    "baddbmm": _biased_product,
    "linear": _linear_product,
    "convolution": _convolution_product,
    "_convolution": _convolution_product,
}
