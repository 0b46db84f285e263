"""How much shared memory a kernel needs at least, as its TTGIR shows.

Dynamic shared memory is stated by Triton's JSON alone; a JSON of another compilation would be believed. The TTGIR
beside a binary allocates its buffers explicitly, so the most that are alive at once is a lower bound.
"""

from __future__ import annotations

import re

__all__ = ["shared_lower_bound"]

# %0 = ttg.local_alloc ... -> !ttg.memdesc<3x64x32xf16, #shared, ...>   (triton_gpu.local_alloc, !tt.memdesc up to 3.2)
_ALLOC = r"(?m)^\s*(%[\w.$-]+) = \w+\.local_alloc\b.*!\w+\.memdesc<((?:[0-9]{1,9}x)+)([a-zA-Z]\w*)"
_NUM_CTAS = r'num-ctas"? = ([1-9][0-9]{0,8})\b'
_BITS = r"(?:i|f|bf|f8E\w*?)([0-9]{1,9})\Z"


def shared_lower_bound(ttgir: str) -> int:
    """Bytes of shared memory that explicit allocations take at once; 0 when the text has none.

    A buffer is taken to be alive from its allocation to the last line that names it, which is never longer than what
    Triton's allocator assumes: views and loop-carried copies of it are not followed.
    """
    ctas = re.search(_NUM_CTAS, ttgir)
    lines: list[tuple[int, int, int]] = []
    for match in re.finditer(_ALLOC, ttgir):
        size = _element_bytes(match[3])
        for extent in match[2][:-1].split("x"):
            size *= int(extent)
        if ctas:  # a cluster's CTAs may share the work: each holds its part at least
            size //= int(ctas[1])
        last = match.end()
        for use in re.finditer(re.escape(match[1]) + r"(?![\w.$-])", ttgir[last:]):
            last = match.end() + use.end()
        lines.append((match.start(), last, size))
    return max((sum(s for b, e, s in lines if b <= start < e) for start, _, _ in lines), default=0)


def _element_bytes(name: str) -> int:
    if name.startswith("f8E"):
        return 1
    bits = re.match(_BITS, name)
    return max(int(bits[1]) // 8, 1) if bits else 1
