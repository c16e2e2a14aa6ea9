"""Gates and masks as values: initialised, drawn, averaged, fixed at test time, checked."""
