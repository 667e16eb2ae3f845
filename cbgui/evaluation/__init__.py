"""Measure a run: attack both models on held-out prompts, compare them on what must stay, and write the report."""
