"""Products with a weight that has a gate on every entry and a mask for every row; masks are drawn
as they are used.
"""
