"""Training of the embedded model: autoencoders, two flows, export, model card."""
