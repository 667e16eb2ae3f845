"""A run's life on disk: its folder, its process, the queue, its jobs. Nothing here imports torch."""
