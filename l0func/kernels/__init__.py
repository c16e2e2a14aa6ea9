"""Number crunching over plain arrays: random words, image patches, the choice of a kernel."""
