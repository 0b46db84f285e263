"""Hand-written PTX whose cubins show what Triton's do not."""

from __future__ import annotations

EXTERN_SHARED = ".extern .shared .align 16 .b8 global_smem[];"
STATIC_SHARED = ".shared .align 16 .b8 fixed[512];"


def module(*parts: str, version: str = "8.4", target: str = "sm_90") -> str:
    return "\n".join((f".version {version}", f".target {target}", ".address_size 64", *parts, ""))


def through_shared(name: str, *symbols: str) -> str:
    """A kernel that stores to and loads from each of these shared arrays."""
    body = "".join(
        f"""
  mov.u32 %r2, {symbol}; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r1; bar.sync 0;
  ld.shared.u32 %r4, [%r2+4]; st.global.u32 [%rd2], %r4;"""
        for symbol in symbols
    )
    return f""".visible .entry {name}(.param .u64 p0) .reqntid 64
{{ .reg .b32 %r<9>; .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
  shl.b32 %r3, %r1, 2; st.global.u32 [%rd2], %r1;{body}
  ret; }}"""


PLAIN = through_shared("plain")

BOUNDS = """.visible .entry required(.param .u64 p0) .reqntid 32,4,2 .reqnctapercluster 2,1,1
{ ret; }
.visible .entry limited(.param .u64 p0, .param .u32 p1) .maxntid 64,2,1 .explicitcluster .maxclusterrank 8
{ ret; }
.visible .entry free()
{ ret; }"""

PARAMETERS = """.visible .entry scalars(
  .param .u64 .ptr .global .align 16 a, .param .u8 b, .param .u16 c, .param .f32 d, .param .f64 e,
  .param .align 64 .b8 f[128], .param .u64 .ptr .shared .align 4 g, .param .u64 .ptr h, .param .u64 i)
{ ret; }
.visible .entry large(.param .u64 .ptr .global .align 16 a, .param .align 64 .b8 b[20000], .param .u8 c)
{ ret; }"""


def spilling(live: int = 60) -> str:
    """A kernel that keeps `live` values alive in 24 registers."""
    loads = "\n".join(f"  ld.volatile.global.f32 %f{i}, [%rd1+{4 * i}];" for i in range(live))
    stores = "\n".join(f"  st.volatile.global.f32 [%rd1+{4 * i}], %f{live - 1 - i};" for i in range(live))
    return f""".visible .entry spilling(.param .u64 p0) .maxntid 128 .maxnreg 24
{{ .reg .b64 %rd<3>; .reg .f32 %f<{live}>; ld.param.u64 %rd1, [p0];
{loads}
  bar.sync 0;
{stores}
  ret; }}"""


CALLING = """.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
.global .align 1 .b8 fmt[3] = {37, 100, 0};
.func (.param .b32 r) callee(.param .b32 a)
{ .local .align 8 .b8 buf[256]; .reg .b32 %r<9>;
  ld.param.u32 %r1, [a]; mov.u32 %r2, buf; and.b32 %r3, %r1, 252; add.u32 %r2, %r2, %r3;
  st.local.u32 [buf+16], %r1; st.local.u32 [%r2], %r3; ld.local.u32 %r4, [buf+16]; st.param.b32 [r], %r4; ret; }
.visible .entry calling(.param .u64 p0)
{ .reg .b32 %r<9>; .reg .b64 %rd<9>; ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x;
  { .param .b32 pa; .param .b32 pr; st.param.b32 [pa], %r1; call (pr), callee, (pa); ld.param.b32 %r6, [pr]; }
  st.global.u32 [%rd1], %r6; mov.u64 %rd3, fmt; cvta.global.u64 %rd3, %rd3; mov.u64 %rd4, 0;
  { .param .b64 pa; .param .b64 pb; .param .b32 pr; st.param.b64 [pa], %rd3; st.param.b64 [pb], %rd4;
    call (pr), vprintf, (pa, pb); }
  ret; }"""
