"""Number crunching over plain arrays: random words, patches of images, the choice of a kernel."""
