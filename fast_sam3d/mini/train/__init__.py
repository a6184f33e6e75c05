"""Training of the embedded model: data, autoencoders, two flows, evaluation."""
