"""Answers of the base model and the short-circuited model."""
