"""The method: losses, steps, the trainer, and what watches and steers it."""
