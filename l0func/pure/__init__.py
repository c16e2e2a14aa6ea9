"""A module as a pure function of its tensors: its randomness comes from a key, its rows from vmap."""
