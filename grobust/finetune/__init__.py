"""Training a whole network on balanced minibatches: settings, the loop, checkpoints. Public names are in `grobust`."""
