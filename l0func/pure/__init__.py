"""A module as a pure function of its tensors.

Its randomness comes from a key, and vmap shows it one row at a time.
"""
