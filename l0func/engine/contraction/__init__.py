"""Products with a weight that has one gate for each entry and one mask for each example.

Masks are drawn where they are used; all masks together would not fit in memory. ``engine.ops``
calls :mod:`.product`. Below it: :mod:`.sweep`, the differentiable function, and :mod:`.operator`,
which asks a backend in ``kernels`` for the values and shows a compiler one opaque operator.
"""
