"""Reading pictures, masks and pointmaps."""
