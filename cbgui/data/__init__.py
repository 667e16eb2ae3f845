"""Examples, where they come from, and the batches they become."""
