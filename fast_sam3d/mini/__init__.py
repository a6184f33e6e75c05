"""The embedded model: its training data, training and sizes. Its networks are in `fast_sam3d.model`."""
