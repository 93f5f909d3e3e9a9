"""WebDataset tars: the members of a tar, and the records that they make. Knows nothing of pixels."""
