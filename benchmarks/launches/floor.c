/*
 * Loops over the driver's own launch calls, with everything prepared before: the floor of `benchmarks/launch_latency.py`.
 * Functions come as addresses, so that no header of CUDA is needed; declarations are those of cuda.h.
 */
#include <stdint.h>

typedef int (*launch_t)(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared,
                        void *stream, void **parameters, void **extra);

typedef struct {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned count;
} Config;

typedef int (*launch_ex_t)(const Config *config, void *function, void **parameters, void **extra);

typedef int (*encode_t)(void *map, int type, uint32_t rank, void *address, const uint64_t *shape,
                        const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave,
                        int swizzle, int promotion, int fill);

int launch(launch_t call, void *function, unsigned threads, unsigned shared, void **parameters, void **extra, int count)
{
    int status = 0;
    for (int i = 0; i < count; i++) status |= call(function, 1, 1, 1, threads, 1, 1, shared, 0, parameters, extra);
    return status;
}

int launch_ex(launch_ex_t call, void *function, unsigned threads, unsigned shared, void **parameters, void **extra,
              int count)
{
    Config config = {{1, 1, 1}, {threads, 1, 1}, shared, 0, 0, 0};
    int status = 0;
    for (int i = 0; i < count; i++) status |= call(&config, function, parameters, extra);
    return status;
}

/* A matrix of fp16, `rows` times `columns`, in boxes of 16 x 32, encoded anew before each launch. */
int encode_and_launch(launch_t call, encode_t encode, void *function, unsigned threads, unsigned shared, void **extra,
                      void *map, void *address, unsigned rows, unsigned columns, int swizzle, int count)
{
    uint64_t shape[2] = {columns, rows}, strides[1] = {2 * columns};
    uint32_t box[2] = {32, 16}, steps[2] = {1, 1};
    int status = 0;
    for (int i = 0; i < count; i++) {
        status |= encode(map, 6, 2, address, shape, strides, box, steps, 0, swizzle, 2, 0);
        status |= call(function, 1, 1, 1, threads, 1, 1, shared, 0, 0, extra);
    }
    return status;
}
