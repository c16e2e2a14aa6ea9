"""Training as a function: optimizers, training states, controllers, checkpoints."""
