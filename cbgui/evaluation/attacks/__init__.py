"""Attacks, one module per family; registry.py lists them all."""
