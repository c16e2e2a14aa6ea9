"""The gate spec: a static plan of which gates exist and which parameter slices each one multiplies
and owns.
"""
