"""The cost of open gates: expected entries and squares, multiply-adds, the summary table."""
