"""Dumps from inside a kernel into one flat buffer: one program, the boundary, all programs."""

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

import trlaunch.compat.triton_runner.language as dl
from trlaunch.compat import triton_runner


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pid = tl.program_id(axis=0)
    offsets = pid * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    output = x + y
    dl.dump(output)
    dl.dump(x, BLOCK_SIZE, 1)
    dl.dump_boundary(mask, 2 * BLOCK_SIZE)
    dl.dump_grids(output, 3 * BLOCK_SIZE)
    tl.store(output_ptr + offsets, output, mask=mask)


@triton_runner.jit
def blocks_kernel(x_ptr, output_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr):
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for step in range(STEPS):
        total += tl.load(x_ptr + at).to(tl.int32) * (program + step)
        dl.dump(total, step * ROWS * COLUMNS, [1, 0])
    tl.store(output_ptr + program * ROWS * COLUMNS + at, total)


def main():
    n, block = 1000, 256
    x, y, output = rand(n), rand(n), zeros(n)
    grid = lambda meta: (triton.cdiv(n, meta["BLOCK_SIZE"]),)  # noqa: E731
    dump_tensor = zeros(3 * block + 4 * block)
    add_kernel[grid](x, y, output, n, BLOCK_SIZE=block, dump_tensor=dump_tensor)
    total, found = to_numpy(x) + to_numpy(y), to_numpy(dump_tensor)
    np.testing.assert_array_equal(to_numpy(output), total)
    np.testing.assert_array_equal(found[:block], total[:block])
    np.testing.assert_array_equal(found[block : 2 * block], to_numpy(x)[block : 2 * block])
    np.testing.assert_array_equal(found[2 * block : 3 * block], np.arange(3 * block, 4 * block) < n)
    np.testing.assert_array_equal(found[3 * block :][:n], total)

    plain = zeros(n)
    add_kernel[grid](x, y, plain, n, BLOCK_SIZE=block)
    np.testing.assert_array_equal(to_numpy(plain), total)

    shape, steps = (8, 16), 3
    x = np.round(to_numpy(rand(128)) * 100).astype(np.float32)
    numbers = zeros(128)
    write(numbers, x)
    sums, dump_tensor = zeros(2 * 2 * 128), zeros(steps * 128)
    blocks_kernel[(2, 2)](numbers, sums, ROWS=shape[0], COLUMNS=shape[1], STEPS=steps, dump_tensor=dump_tensor)
    expected = np.cumsum([x * (2 + step) for step in range(steps)], axis=0)
    np.testing.assert_array_equal(to_numpy(dump_tensor).reshape(steps, 128), expected)
    print("dumps match")


def write(tensor, values):
    if isinstance(tensor, np.ndarray):
        tensor[:] = values
    elif hasattr(tensor, "copy_from"):
        tensor.copy_from(values)
    else:
        import torch

        tensor.copy_(torch.from_numpy(values))


if __name__ == "__main__":
    main()
