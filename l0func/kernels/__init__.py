"""Products with a weight whose every entry has a gate, a mask for every row: drawn where it is used, and never kept."""
