"""Which units a module is made of: what its forward does with every entry of every parameter."""
