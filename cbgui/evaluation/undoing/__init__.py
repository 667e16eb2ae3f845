"""Can the breaker be undone by somebody who has the weights? Attempts, and how far each of them gets."""
