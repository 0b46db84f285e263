"""Warps that run alone: what they compute, wait for and report is what it is with all lanes in lockstep."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.launching import HEADER, entry, launch
from trlaunch.emulator.scheduler import Scheduler
from trlaunch.emulator.strands import Strands
from trlaunch.errors import Fault

# Three warp groups: the first adds in a loop of its own length, hands a number on through shared memory and a named
# barrier, which the second takes; the third's last warp goes its own way; in the end all meet.
GROUPS = """
mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 7; mov.u32 %r3, %ctaid.x; mul.wide.u32 %d1, %r1, 4;
mov.u32 %r9, %ntid.x; mul.lo.u32 %r4, %r3, %r9; mad.wide.u32 %d2, %r4, 4, %a0; add.s64 %d2, %d2, %d1;
mov.u32 %r5, 7; mov.u32 %r6, 0; mov.u32 %r12, s; mad.lo.u32 %r13, %r1, 4, %r12;
setp.eq.u32 %p1, %r2, 1; @%p1 bra SECOND;
setp.eq.u32 %p2, %r2, 2; @%p2 bra THIRD;
add.u32 %r7, %r3, 3;
LOOP: add.u32 %r5, %r5, %r1; add.u32 %r6, %r6, 1; setp.lt.u32 %p3, %r6, %r7; @%p3 bra LOOP;
st.shared.u32 [%r13], %r5; bar.sync 1, 256; bra END;
SECOND: add.u32 %r6, %r6, 100; bar.sync 1, 256; ld.shared.u32 %r5, [%r13-512]; bra END;
THIRD: shr.u32 %r8, %r1, 5; setp.ne.u32 %p4, %r8, 11; @%p4 bra END;
shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; add.u32 %r6, %r6, %r5; EXTRA
END: bar.sync 0; add.u32 %r5, %r5, %r6; st.global.u32 [%d2], %r5;
"""
SHARED = ".shared .align 16 .b8 s[2048];\n"
CTAS = 3


def text(extra: str = "") -> str:
    return HEADER + SHARED + entry(GROUPS.replace("EXTRA", extra), 1, threads=384)


def expected() -> np.ndarray:
    out = np.zeros((CTAS, 384), np.uint32)
    for cta in range(CTAS):
        for thread in range(384):
            rounds = cta + 3
            if thread < 128:
                out[cta, thread] = 7 + rounds * thread + rounds
            elif thread < 256:
                out[cta, thread] = 7 + rounds * (thread - 128) + 100
            else:
                out[cta, thread] = 7 if thread < 352 else 2 * (thread ^ 1)
    return out


@pytest.mark.parametrize("splits", [True, False])
def test_groups_of_warps(splits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "splits", splits)
    runs = []
    find = Strands._find
    monkeypatch.setattr(Strands, "_find", lambda self, mask: runs.append(find(self, mask)) or runs[-1])
    out = np.zeros((CTAS, 384), np.uint32)
    launch(text(), [out], grid=(CTAS,))
    np.testing.assert_array_equal(out, expected())
    lanes = {(s.first, s.last) for s in runs if s is not None}
    assert lanes == ({(0, 128), (128, 256), (256, 384)} if splits else set())


def test_a_fault_names_the_thread_of_the_cta() -> None:
    out = np.zeros((CTAS, 384), np.uint32)
    with pytest.raises(Fault, match="out-of-bounds") as caught:
        launch(text("st.global.u32 [%d2+1000000], %r1;"), [out], grid=(CTAS,))
    assert (caught.value.cta, caught.value.thread) == ((0, 0, 0), (352, 0, 0))


def test_a_deadlock_names_the_warps() -> None:
    out = np.zeros((CTAS, 384), np.uint32)
    with pytest.raises(Fault, match="barrier 1 has 256 of 384 threads") as caught:
        launch(text().replace("1, 256", "1, 384"), [out], grid=(CTAS,))
    assert caught.value.kind == "deadlock"


def test_part_of_a_warp_is_divergent_there_too() -> None:
    out = np.zeros((CTAS, 384), np.uint32)
    with pytest.raises(Fault, match="divergent") as caught:
        launch(text().replace("setp.ne.u32 %p4, %r8, 11;", "setp.lt.u32 %p4, %r1, 360;"), [out], grid=(CTAS,))
    assert caught.value.thread is not None
    assert caught.value.thread[0] >= 352


def test_clocks_grow() -> None:
    body = """
    mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 128; mul.wide.u32 %d1, %r1, 8; add.s64 %d1, %d1, %a0;
    mov.u64 %d2, %clock64; @%p1 bra ON; bra.uni END;
    ON: mov.u64 %d3, %clock64; sub.u64 %d2, %d3, %d2;
    END: mov.u64 %d4, %clock64; add.u64 %d2, %d2, %d4; st.global.u64 [%d1], %d2;
    """
    out = np.zeros(256, np.uint64)
    launch(HEADER + entry(body, 1, threads=256), [out])
    assert (out[:128] > 1).all()
