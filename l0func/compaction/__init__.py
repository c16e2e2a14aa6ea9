"""Units of a network: found by tracing, verified on a copy, and removed from every tensor."""
