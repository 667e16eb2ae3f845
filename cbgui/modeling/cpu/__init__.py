"""CPU optimisations. CBGUI_CPU_TRICKS=0 turns all of them off; the results are the same up to rounding.

onednn.py: matrix products; fused_norm.py: RMS norms; query_blocks.py: attention; contiguous_head.py: the
head's input; allocator.py: the C library's memory. What each of them gave is in dev/LOG.md.
"""

import os


def tricks_enabled() -> bool:
    """Whether the optimisations are on."""
    return os.environ.get("CBGUI_CPU_TRICKS", "1") != "0"
