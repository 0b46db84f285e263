/* DLPack 1.1 to 1.3 (dlpack.h): tensors, and the table by which a type of tensor is read. */
#ifndef TRLAUNCH_DLPACK_H
#define TRLAUNCH_DLPACK_H

#include "common.h"

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct ExchangeHeader {
    uint32_t major, minor;
    struct ExchangeHeader *previous;
} ExchangeHeader;

typedef struct {
    ExchangeHeader header;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*tensor_from_object)(void *object, DLTensor *out); /* may be null */
    int (*current_stream)(int device_type, int32_t device, void **out);
} Exchange;

_Static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, byte_offset) == 40, "DLTensor of dlpack.h");
_Static_assert(sizeof(Exchange) == 56, "DLPackExchangeAPI of dlpack.h");

enum { EXCHANGE_MAJOR = 1, FP32_NUMBER = 2 * 4 + 2 };

/* DLPack's code and bits as one small number, the bit of a mask: code * 4 + log2(bytes). -1: none. */
static int dtype_of(uint8_t code, uint8_t bits, uint16_t lanes) {
    int width = bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 3 : -1;
    return width < 0 || code > 15 || lanes != 1 ? -1 : code * 4 + width;
}

#endif
