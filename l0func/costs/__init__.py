"""The cost of open gates: expected entries and squares, multiply-adds, and a summary table."""
