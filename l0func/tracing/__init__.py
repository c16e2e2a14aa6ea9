"""Dataflow analysis of one forward pass: it finds the units that a module consists of.

Read ``units``, ``values`` and ``trace`` first: how the analysis represents units, tensors and its
result. Then read ``call`` and ``step``, the two arguments of a transfer function, and one file in
``transfers``. ``follow`` puts all together: it runs the module once and returns the trace, from
which ``compaction`` makes groups and ``costs`` counts multiply-adds.
"""
