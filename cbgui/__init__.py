"""Short-circuit a language model by representation rerouting (Zou et al. 2024, arXiv 2406.04313)."""
