"""The embedded model: a small pipeline with the attribute surface of the stock one, written in plain PyTorch."""
