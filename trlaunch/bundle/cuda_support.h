/*
 * What the headers written by `trlaunch bundle` for CUDA share. It stands in each of them and counts once.
 *
 * #define TRLAUNCH_DLOPEN before the first of them, and neither cuda.h nor -lcuda is needed: what is used of the driver
 * API is declared here, and libcuda.so.1 is opened at the first launch (link with -ldl where the C library wants it).
 * A program that includes cuda.h as well includes it first.
 */
#ifndef TRLAUNCH_CUDA_SUPPORT_1
#define TRLAUNCH_CUDA_SUPPORT_1

#if !defined(__GNUC__) && !defined(__clang__)
#error "headers of trlaunch need the __atomic builtins of GCC or Clang"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "parameter buffers are little-endian, and so must the host be"
#endif

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

#ifndef TRLAUNCH_DLOPEN
#include <cuda.h>
#else
#include <dlfcn.h>
#endif

#ifdef CUDA_VERSION
#if CUDA_VERSION < 12000
#error "headers of trlaunch need cuda.h of CUDA 12.0 or later, or TRLAUNCH_DLOPEN"
#endif
#else /* the part of cuda.h that is used here, with its names, numbers and layouts */

typedef enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND = 302,
    CUDA_ERROR_SHARED_OBJECT_INIT_FAILED = 303,
    TRLAUNCH_CUDA_ERROR_LAST = 999
} CUresult;
typedef unsigned long long CUdeviceptr;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUtensorMap_st {
    uint64_t opaque[16];
} __attribute__((aligned(64))) CUtensorMap;
typedef enum { CU_STREAM_CAPTURE_MODE_RELAXED = 2 } CUstreamCaptureMode;
typedef enum { CU_FUNC_CACHE_PREFER_SHARED = 1 } CUfunc_cache;
typedef enum {
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14
} CUfunction_attribute;
typedef enum {
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6
} CUlaunchAttributeID;
typedef enum { CU_CLUSTER_SCHEDULING_POLICY_SPREAD = 1 } CUclusterSchedulingPolicy;
typedef struct {
    CUlaunchAttributeID id;
    char pad[8 - sizeof(CUlaunchAttributeID)];
    union {
        char pad[64];
        int cooperative;
        struct {
            unsigned int x, y, z;
        } clusterDim;
        CUclusterSchedulingPolicy clusterSchedulingPolicyPreference;
        int programmaticStreamSerializationAllowed;
    } value;
} CUlaunchAttribute;
typedef struct {
    unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    CUlaunchAttribute *attrs;
    unsigned int numAttrs;
} CUlaunchConfig;
typedef enum { TRLAUNCH_CUDA_DATA_TYPE_LAST = 12 } CUtensorMapDataType;
typedef enum { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 } CUtensorMapInterleave;
typedef enum { TRLAUNCH_CUDA_SWIZZLE_LAST = 3 } CUtensorMapSwizzle;
typedef enum { CU_TENSOR_MAP_L2_PROMOTION_L2_128B = 2 } CUtensorMapL2promotion;
typedef enum {
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0,
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA = 1
} CUtensorMapFloatOOBfill;
#define CU_LAUNCH_PARAM_END ((void *)0x00)
#define CU_LAUNCH_PARAM_BUFFER_POINTER ((void *)0x01)
#define CU_LAUNCH_PARAM_BUFFER_SIZE ((void *)0x02)

#endif

/* ---- the driver's functions ---------------------------------------------------------------------------------- */

typedef struct {
    CUresult (*GetErrorName)(CUresult, const char **);
    CUresult (*DriverGetVersion)(int *);
    CUresult (*Init)(unsigned int);
    CUresult (*DeviceGet)(CUdevice *, int);
    CUresult (*DevicePrimaryCtxRetain)(CUcontext *, CUdevice);
    CUresult (*CtxSetCurrent)(CUcontext);
    CUresult (*CtxGetId)(CUcontext, unsigned long long *);
    CUresult (*ThreadExchangeStreamCaptureMode)(CUstreamCaptureMode *);
    CUresult (*ModuleLoadData)(CUmodule *, const void *);
    CUresult (*ModuleGetFunction)(CUfunction *, CUmodule, const char *);
    CUresult (*FuncSetCacheConfig)(CUfunction, CUfunc_cache);
    CUresult (*FuncSetAttribute)(CUfunction, CUfunction_attribute, int);
    CUresult (*LaunchKernelEx)(const CUlaunchConfig *, CUfunction, void **, void **);
    CUresult (*MemAllocAsync)(CUdeviceptr *, size_t, CUstream);
    CUresult (*MemFreeAsync)(CUdeviceptr, CUstream);
    CUresult (*MemsetD8Async)(CUdeviceptr, unsigned char, size_t, CUstream);
    CUresult (*TensorMapEncodeTiled)(CUtensorMap *, CUtensorMapDataType, uint32_t, void *, const uint64_t *,
                                     const uint64_t *, const uint32_t *, const uint32_t *, CUtensorMapInterleave,
                                     CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
} trlaunch_cuda_api;

#ifdef TRLAUNCH_DLOPEN

#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define TRLAUNCH_CUDA_STREAM_SUFFIX "_ptsz"
#else
#define TRLAUNCH_CUDA_STREAM_SUFFIX ""
#endif

static inline CUresult trlaunch_cuda_open(const trlaunch_cuda_api **out) {
    static trlaunch_cuda_api table;
    static const trlaunch_cuda_api *ready; /* written once, under the lock */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const char *const names[] = {
        "cuGetErrorName",
        "cuDriverGetVersion",
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuCtxGetId",
        "cuThreadExchangeStreamCaptureMode",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetCacheConfig",
        "cuFuncSetAttribute",
        "cuLaunchKernelEx" TRLAUNCH_CUDA_STREAM_SUFFIX,
        "cuMemAllocAsync" TRLAUNCH_CUDA_STREAM_SUFFIX,
        "cuMemFreeAsync" TRLAUNCH_CUDA_STREAM_SUFFIX,
        "cuMemsetD8Async" TRLAUNCH_CUDA_STREAM_SUFFIX,
        "cuTensorMapEncodeTiled",
    };
    CUresult status = CUDA_SUCCESS;
    *out = __atomic_load_n(&ready, __ATOMIC_ACQUIRE);
    if (*out) return CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (!ready) {
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        char *slot = (char *)&table;
        size_t i;
        if (!library) status = CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
        for (i = 0; library && i < sizeof names / sizeof *names; i++) {
            void *symbol = dlsym(library, names[i]);
            if (!symbol) status = CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND;
            memcpy(slot + i * sizeof symbol, &symbol, sizeof symbol); /* ISO C converts no data pointer to a function's */
        }
        if (status == CUDA_SUCCESS) __atomic_store_n(&ready, &table, __ATOMIC_RELEASE);
    }
    *out = ready;
    pthread_mutex_unlock(&lock);
    return status;
}

#else

static inline CUresult trlaunch_cuda_open(const trlaunch_cuda_api **out) {
    static const trlaunch_cuda_api table = {
        cuGetErrorName,       cuDriverGetVersion, cuInit,           cuDeviceGet,
        cuDevicePrimaryCtxRetain, cuCtxSetCurrent, cuCtxGetId,      cuThreadExchangeStreamCaptureMode,
        cuModuleLoadData,     cuModuleGetFunction, cuFuncSetCacheConfig, cuFuncSetAttribute,
        cuLaunchKernelEx,     cuMemAllocAsync,    cuMemFreeAsync,   cuMemsetD8Async,
        cuTensorMapEncodeTiled,
    };
    *out = &table;
    return CUDA_SUCCESS;
}

#endif

/* The name of a status, "CUDA_ERROR_INVALID_VALUE"; never null. */
static inline const char *trlaunch_cuda_error_name(CUresult status) {
    const trlaunch_cuda_api *cuda;
    const char *name = NULL;
    if (trlaunch_cuda_open(&cuda) == CUDA_SUCCESS && cuda->GetErrorName(status, &name) == CUDA_SUCCESS && name)
        return name;
    if (status == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED) return "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED";
    if (status == CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND) return "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND";
    return "CUDA_ERROR_UNKNOWN";
}

/*
 * Make a device's primary context, the one that torch and the CUDA runtime have, current in the calling thread: for
 * programs that have no context yet. It is retained until the program ends.
 */
static inline CUresult trlaunch_cuda_use_device(int ordinal) {
    const trlaunch_cuda_api *cuda;
    CUdevice device;
    CUcontext context;
    CUresult status = trlaunch_cuda_open(&cuda);
    if (status == CUDA_SUCCESS) status = cuda->Init(0);
    if (status == CUDA_SUCCESS) status = cuda->DeviceGet(&device, ordinal);
    if (status == CUDA_SUCCESS) status = cuda->DevicePrimaryCtxRetain(&context, device);
    if (status == CUDA_SUCCESS) status = cuda->CtxSetCurrent(context);
    return status;
}

/* ---- kernels ------------------------------------------------------------------------------------------------- */

typedef struct trlaunch_cuda_entry {
    struct trlaunch_cuda_entry *next;
    unsigned long long context; /* of cuCtxGetId: never used again, unlike a handle */
    CUfunction function;
} trlaunch_cuda_entry;

typedef struct {
    const unsigned char *image;
    const char *name;
    unsigned int threads, cluster[3], shared, static_shared;
    int cooperative, pdl;
    pthread_mutex_t lock;
    trlaunch_cuda_entry *entries; /* grows at its head; whoever reads it needs no lock */
} trlaunch_cuda_kernel;

enum { TRLAUNCH_CUDA_PORTABLE_CLUSTER = 8, TRLAUNCH_CUDA_PORTABLE_SHARED = 49152 };

static inline trlaunch_cuda_entry *trlaunch_cuda_find(trlaunch_cuda_kernel *kernel, unsigned long long context) {
    trlaunch_cuda_entry *entry = __atomic_load_n(&kernel->entries, __ATOMIC_ACQUIRE);
    while (entry && entry->context != context) entry = entry->next;
    return entry;
}

static inline CUresult trlaunch_cuda_prepare(const trlaunch_cuda_api *cuda, trlaunch_cuda_kernel *kernel,
                                             CUfunction *function) {
    CUmodule module;
    CUresult status = cuda->ModuleLoadData(&module, kernel->image);
    if (status == CUDA_SUCCESS) status = cuda->ModuleGetFunction(function, module, kernel->name);
    if (status == CUDA_SUCCESS && kernel->shared + kernel->static_shared > TRLAUNCH_CUDA_PORTABLE_SHARED) {
        status = cuda->FuncSetCacheConfig(*function, CU_FUNC_CACHE_PREFER_SHARED);
        if (status == CUDA_SUCCESS)
            status = cuda->FuncSetAttribute(*function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                            (int)kernel->shared);
    }
    if (status == CUDA_SUCCESS &&
        kernel->cluster[0] * kernel->cluster[1] * kernel->cluster[2] > TRLAUNCH_CUDA_PORTABLE_CLUSTER)
        status = cuda->FuncSetAttribute(*function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
    return status;
}

/* The kernel in the calling thread's context, loaded when this is its first use there. */
static inline CUresult trlaunch_cuda_load(const trlaunch_cuda_api *cuda, trlaunch_cuda_kernel *kernel,
                                          CUfunction *function) {
    unsigned long long context;
    trlaunch_cuda_entry *entry;
    CUresult status = cuda->CtxGetId(NULL, &context);
    if (status != CUDA_SUCCESS) return status;
    entry = trlaunch_cuda_find(kernel, context);
    if (!entry) {
        pthread_mutex_lock(&kernel->lock);
        entry = trlaunch_cuda_find(kernel, context);
        if (!entry) {
            CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED; /* loading must not end a capture */
            entry = (trlaunch_cuda_entry *)malloc(sizeof *entry);
            status = entry ? cuda->ThreadExchangeStreamCaptureMode(&mode) : CUDA_ERROR_OUT_OF_MEMORY;
            if (status == CUDA_SUCCESS) {
                CUresult restored;
                status = trlaunch_cuda_prepare(cuda, kernel, &entry->function);
                restored = cuda->ThreadExchangeStreamCaptureMode(&mode);
                if (status == CUDA_SUCCESS) status = restored;
            }
            if (status == CUDA_SUCCESS) {
                entry->context = context;
                entry->next = kernel->entries;
                __atomic_store_n(&kernel->entries, entry, __ATOMIC_RELEASE);
            } else {
                free(entry);
            }
        }
        pthread_mutex_unlock(&kernel->lock);
        if (status != CUDA_SUCCESS) return status;
    }
    *function = entry->function;
    return CUDA_SUCCESS;
}

static inline CUresult trlaunch_cuda_ctas(const trlaunch_cuda_kernel *kernel, const unsigned int *programs,
                                          unsigned int *ctas) {
    int i;
    for (i = 0; i < 3; i++) {
        uint64_t count = (uint64_t)programs[i] * kernel->cluster[i];
        if (count > 0x7fffffffu) return CUDA_ERROR_INVALID_VALUE;
        ctas[i] = (unsigned int)count;
    }
    return CUDA_SUCCESS;
}

static inline CUresult trlaunch_cuda_launch(trlaunch_cuda_kernel *kernel, CUstream stream, const unsigned int *programs,
                                            const void *parameters, size_t size) {
    const trlaunch_cuda_api *cuda;
    CUfunction function;
    CUlaunchAttribute attributes[4];
    CUlaunchConfig config;
    unsigned int ctas[3], count = 0;
    void *extra[5];
    CUresult status = trlaunch_cuda_ctas(kernel, programs, ctas);
    if (status == CUDA_SUCCESS) status = trlaunch_cuda_open(&cuda);
    if (status == CUDA_SUCCESS) status = trlaunch_cuda_load(cuda, kernel, &function);
    if (status != CUDA_SUCCESS) return status;
    memset(attributes, 0, sizeof attributes);
    memset(&config, 0, sizeof config);
    if (kernel->cluster[0] * kernel->cluster[1] * kernel->cluster[2] > 1) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes[count].value.clusterDim.x = kernel->cluster[0];
        attributes[count].value.clusterDim.y = kernel->cluster[1];
        attributes[count++].value.clusterDim.z = kernel->cluster[2];
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE;
        attributes[count++].value.clusterSchedulingPolicyPreference = CU_CLUSTER_SCHEDULING_POLICY_SPREAD;
    }
    if (kernel->cooperative) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attributes[count++].value.cooperative = 1;
    }
    if (kernel->pdl) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes[count++].value.programmaticStreamSerializationAllowed = 1;
    }
    config.gridDimX = ctas[0];
    config.gridDimY = ctas[1];
    config.gridDimZ = ctas[2];
    config.blockDimX = kernel->threads;
    config.blockDimY = config.blockDimZ = 1;
    config.sharedMemBytes = kernel->shared;
    config.hStream = stream;
    config.attrs = count ? attributes : NULL;
    config.numAttrs = count;
    extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    extra[1] = (void *)(uintptr_t)parameters;
    extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    extra[3] = &size;
    extra[4] = CU_LAUNCH_PARAM_END;
    return cuda->LaunchKernelEx(&config, function, NULL, size ? extra : NULL);
}

/* Scratch: memory in the order of the stream, from the device's current pool. */
static inline CUresult trlaunch_cuda_allocate(CUdeviceptr *out, size_t size, int zeros, CUstream stream) {
    const trlaunch_cuda_api *cuda;
    CUresult status = trlaunch_cuda_open(&cuda);
    if (status == CUDA_SUCCESS) status = cuda->MemAllocAsync(out, size, stream);
    if (status == CUDA_SUCCESS && zeros) {
        status = cuda->MemsetD8Async(*out, 0, size, stream);
        if (status != CUDA_SUCCESS) cuda->MemFreeAsync(*out, stream);
    }
    return status;
}

static inline CUresult trlaunch_cuda_release(CUdeviceptr at, CUstream stream) {
    const trlaunch_cuda_api *cuda;
    CUresult status = trlaunch_cuda_open(&cuda);
    return status == CUDA_SUCCESS ? cuda->MemFreeAsync(at, stream) : status;
}

/* A CUtensorMap of a tensor whose numbers come outermost first, strides in elements, as Triton and trlaunch have them. */
static inline CUresult trlaunch_cuda_encode(CUtensorMap *map, int data_type, unsigned int rank, unsigned int element,
                                            const uint32_t *box, int swizzle, int doubled, CUdeviceptr base,
                                            const uint64_t *shape, const uint64_t *strides, int nan_fill) {
    const trlaunch_cuda_api *cuda;
    uint64_t dimensions[5], steps[5] = {0, 0, 0, 0, 0}, span = 1;
    uint32_t boxes[5], ones[5];
    unsigned int i;
    int version;
    CUresult status = trlaunch_cuda_open(&cuda);
    if (status != CUDA_SUCCESS) return status;
    if (strides[rank - 1] != 1) return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < rank; i++) {
        dimensions[i] = shape[rank - 1 - i] << (doubled && i == 0 ? 1 : 0);
        boxes[i] = box[rank - 1 - i];
        ones[i] = 1;
        if (i) steps[i - 1] = strides[rank - 1 - i] * element;
        span += (shape[i] - 1) * strides[i];
    }
    status = cuda->DriverGetVersion(&version);
    if (status == CUDA_SUCCESS)
        status = cuda->TensorMapEncodeTiled(
            map, (CUtensorMapDataType)data_type, rank, (void *)(uintptr_t)base, dimensions, steps, boxes, ones,
            CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            nan_fill ? CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA : CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    /* Drivers up to 13.1 set a bit that is wrong for tensors under 128 KiB; CUTLASS and Triton 3.7 clear it, too. */
    if (status == CUDA_SUCCESS && version <= 13010 && span * element < 128 * 1024) {
        uint64_t word;
        memcpy(&word, (char *)map + 8, sizeof word);
        word &= ~((uint64_t)1 << 21);
        memcpy((char *)map + 8, &word, sizeof word);
    }
    return status;
}

#endif /* TRLAUNCH_CUDA_SUPPORT_1 */
