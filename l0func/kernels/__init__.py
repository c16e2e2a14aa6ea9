"""Number crunching over plain arrays: Philox words, patches of images, and the choice of a
backend.
"""
