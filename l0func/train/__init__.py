"""Training as a function: optimizers, training states, the controller of a target, checkpoints."""
