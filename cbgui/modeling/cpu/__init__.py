"""What makes a CPU fast, behind one switch: with CBGUI_CPU_TRICKS=0 the program gives the same results, more slowly.

onednn.py: matrix products; fused_norm.py: RMS norms; query_blocks.py: attention; allocator.py: the C library's memory.
Figures are in docs/performance.md.
"""

import os


def tricks_enabled() -> bool:
    return os.environ.get("CBGUI_CPU_TRICKS", "1") != "0"
