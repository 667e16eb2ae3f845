"""Attacks, one module for each family."""
