"""The evidence: attacks on held-out prompts, what was kept, and the report."""
