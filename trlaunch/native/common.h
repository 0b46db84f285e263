/* What all of the launcher is written with: limits, kinds of slots, answers. */
#ifndef TRLAUNCH_COMMON_H
#define TRLAUNCH_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "parameter buffers are little-endian, and so must the host be"
#endif

enum {
    MAX_PARAMETERS = 4096, /* bytes of the buffer on the stack; larger ones take the Python path */
    USUAL_BYTES = 1024, /* of that of launch_usual; a multiple of 64 */
    MAX_ADDRESSES = 512, CONFIG_BYTES = 64, MAX_PLANS = 32, MAX_ENTRIES = 8, MAX_GRIDS = 16, MAX_DEVICES = 4, MAX_TYPES = 4,
    MAX_ARRAY_TYPES = 16,
    MAPS = 8, MAP_SIZE = 128, MAP_BYTES = 256, MAX_RANK = 5, MAX_DEPTH = 16
};

enum { POINTER, INTEGER, FP16, BF16, FP32, FP64, UNTYPED4, UNTYPED8, TENSOR_MAP,
       DIGIT /* an INTEGER of 4 bytes that takes whatever an int of one digit holds: nearly all are; see plan_init */ };

enum { UNUSUAL = 0, DONE = 1, FAILED = -1, ELSEWHERE = 2 };

/*
 * What nearly every launch runs is laid out together, what others run is kept out of it: behind the driver's launch the
 * instructions have to come from a farther cache, and a launch costs what it has to fetch. The buffers in HOT functions
 * are written at offsets that plan_init checked, so that they need no stack protector.
 */
#if defined(__has_attribute)
#if __has_attribute(no_stack_protector)
#define HOT __attribute__((hot, no_stack_protector))
#endif
#endif
#ifndef HOT
#define HOT __attribute__((hot))
#endif
#define APART __attribute__((noinline))

#endif
