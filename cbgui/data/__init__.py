"""Examples and where they come from. Nothing here imports torch or transformers."""
