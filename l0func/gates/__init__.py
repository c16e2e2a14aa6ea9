"""Gates and masks as values: initialised, sampled, averaged, fixed at test time, checked."""
