"""The two kernels of docs/diff.md: each got worse from one release of Triton to the next."""

import triton
import triton.language as tl


@triton.jit
def attention_backward_kv(
    Q, K, V, DO, LSE, DELTA, DK, DV, stride, n_ctx, scale,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Gradients of K and V for one block of keys; LSE has the logarithm to the base 2."""
    start = tl.program_id(0) * BLOCK_N
    offs_n = start + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD)
    k = tl.load(K + offs_n[:, None] * stride + offs_d[None, :])
    v = tl.load(V + offs_n[:, None] * stride + offs_d[None, :])
    dk = tl.zeros([BLOCK_N, HEAD], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, HEAD], dtype=tl.float32)
    for m in range(0, n_ctx, BLOCK_M):
        offs_m = m + tl.arange(0, BLOCK_M)
        q_t = tl.load(Q + offs_m[None, :] * stride + offs_d[:, None])
        lse = tl.load(LSE + offs_m)
        p_t = tl.exp2(tl.dot(k, q_t) * scale - lse[None, :])
        do = tl.load(DO + offs_m[:, None] * stride + offs_d[None, :])
        dv += tl.dot(p_t.to(tl.float16), do)
        delta = tl.load(DELTA + offs_m)
        dp_t = tl.dot(v, tl.trans(do))
        ds_t = (p_t * (dp_t - delta[None, :])).to(tl.float16)
        dk += tl.dot(ds_t, tl.trans(q_t))
    tl.store(DV + offs_n[:, None] * stride + offs_d[None, :], dv)
    tl.store(DK + offs_n[:, None] * stride + offs_d[None, :], dk)


@triton.jit
def small_matmul(
    A, B, C, M, N, K, stride_a, stride_b, stride_c,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A matrix product in the order of programs that keeps tiles of B in the L2."""
    pid = tl.program_id(0)
    across = tl.cdiv(N, BLOCK_N)
    group = pid // (GROUP * across)
    first = group * GROUP
    rows = min(tl.cdiv(M, BLOCK_M) - first, GROUP)
    pid_m = first + (pid % (GROUP * across)) % rows
    pid_n = (pid % (GROUP * across)) // rows
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)) % M
    offs_n = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)) % N
    offs_k = tl.arange(0, BLOCK_K)
    a_ptrs = A + offs_m[:, None] * stride_a + offs_k[None, :]
    b_ptrs = B + offs_k[:, None] * stride_b + offs_n[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        a = tl.load(a_ptrs, mask=offs_k[None, :] < K - k * BLOCK_K, other=0.0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < K - k * BLOCK_K, other=0.0)
        acc = tl.dot(a, b, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K * stride_b
    c = acc.to(tl.float16)
    offs_cm = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_cn = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (offs_cm[:, None] < M) & (offs_cn[None, :] < N)
    tl.store(C + offs_cm[:, None] * stride_c + offs_cn[None, :], c, mask=mask)
