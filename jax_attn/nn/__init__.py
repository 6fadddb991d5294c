"""The building blocks: layers, attention and its kernels, averaging, losses."""
