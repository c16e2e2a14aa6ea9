"""Units of a network: found by tracing, verified on a copy, and cut out of every tensor."""
