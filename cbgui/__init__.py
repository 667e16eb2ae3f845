"""Short-circuit a language model by representation rerouting (Zou et al. 2024, arXiv 2406.04313)."""

import logging

# bitsandbytes names an optional package at import that nothing here needs; on screen it would read as a fault.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
