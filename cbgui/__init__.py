"""Short-circuit a language model by representation rerouting (Zou et al. 2024, arXiv 2406.04313)."""

import logging

# At import, bitsandbytes warns of an optional package that nothing here needs; users would take it for a fault.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
