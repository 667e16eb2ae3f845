"""From an adapter to a model that others load."""
