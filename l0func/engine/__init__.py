"""How a gated function runs: with one mask for a batch, or with one for each row.

A call with a mask for each row, file by file:

1. ``per_example`` maps over keys and rows with ``torch.vmap``. Each ``row`` is a batch of one,
   inside :class:`l0func.pure.by_row.ByRow`, a mode for operations that vmap alone cannot map.
2. ``gated`` runs the pure function for the row's key, inside :class:`l0func.pure.keyed.Keyed`, a
   mode that draws dropout and other randomness from that key.
3. ``stand_ins`` replaces each gated weight by a ``GatedParameter`` (``parameter``). ``layout`` has
   sorted its gates into scales along a dimension and ``entry_gates``.
4. The module calls a torch operation with that weight. ``GatedParameter.__torch_function__`` finds
   the operation's handler in ``ops``.
5. The handler scales inputs and outputs. It gives entry gates to a kernel in ``contraction``.
   The kernel draws masks a chunk at a time, for all mapped rows together.
6. ``per_example`` joins the output rows.

A call with one key for the whole batch stops at 2: ``gated`` multiplies the parameters by their
masks and calls the function.
"""
