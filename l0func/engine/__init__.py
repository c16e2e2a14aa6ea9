"""How a gated function runs: one mask for a batch, or one for every row, without laying the masks
out.
"""
