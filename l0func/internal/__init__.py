"""Tools that every wing may use: pytrees by dotted path, the context of compilers and vmap,
interception of torch functions.
"""
