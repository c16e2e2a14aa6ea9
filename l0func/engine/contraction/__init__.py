"""Products with a weight that has one gate for each entry and one mask for each example.

Masks are drawn chunk by chunk where they are used; all masks together would not fit in memory.
``engine.ops`` calls :mod:`.product`. Below it: :mod:`.sweep` (the differentiable function),
:mod:`.run` (the loop over chunks), :mod:`.tiling` (how large a chunk is), :mod:`.kernel` (one
chunk, eager or compiled) and :mod:`.chunks` (the computation in one chunk).
"""
