/*
 * What the headers written by `trlaunch bundle` for HIP share. It stands in each of them and counts once.
 *
 * #define TRLAUNCH_DLOPEN before the first of them, and neither ROCm's headers nor -lamdhip64 are needed: what is used
 * of the runtime is declared here, and libamdhip64.so is opened at the first launch (link with -ldl where the C library
 * wants it). A program that includes hip_runtime_api.h as well includes it first.
 */
#ifndef TRLAUNCH_HIP_SUPPORT_1
#define TRLAUNCH_HIP_SUPPORT_1

#if !defined(__GNUC__) && !defined(__clang__)
#error "headers of trlaunch need the __atomic builtins of GCC or Clang"
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
#if !defined(__HIP_PLATFORM_AMD__) && !defined(__HIP_PLATFORM_NVIDIA__)
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>
#else
#include <dlfcn.h>
#endif

#ifndef HIP_INCLUDE_HIP_HIP_RUNTIME_API_H /* the part of it that is used here, with its names and numbers */

typedef enum {
    hipSuccess = 0,
    hipErrorInvalidValue = 1,
    hipErrorOutOfMemory = 2,
    hipErrorSharedObjectSymbolNotFound = 302,
    hipErrorSharedObjectInitFailed = 303,
    TRLAUNCH_HIP_ERROR_LAST = 1054
} hipError_t;
typedef void *hipDeviceptr_t;
typedef struct ihipModule_t *hipModule_t;
typedef struct ihipModuleSymbol_t *hipFunction_t;
typedef struct ihipStream_t *hipStream_t;

#endif

/* ---- the runtime's functions --------------------------------------------------------------------------------- */

typedef struct {
    const char *(*GetErrorName)(hipError_t);
    hipError_t (*GetDevice)(int *);
    hipError_t (*SetDevice)(int);
    hipError_t (*ModuleLoadData)(hipModule_t *, const void *);
    hipError_t (*ModuleGetFunction)(hipFunction_t *, hipModule_t, const char *);
    hipError_t (*ModuleLaunchKernel)(hipFunction_t, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
                                     unsigned int, unsigned int, hipStream_t, void **, void **);
    hipError_t (*ModuleLaunchCooperativeKernel)(hipFunction_t, unsigned int, unsigned int, unsigned int, unsigned int,
                                                unsigned int, unsigned int, unsigned int, hipStream_t, void **);
    hipError_t (*MallocAsync)(void **, size_t, hipStream_t);
    hipError_t (*FreeAsync)(void *, hipStream_t);
    hipError_t (*MemsetD8Async)(hipDeviceptr_t, unsigned char, size_t, hipStream_t);
} trlaunch_hip_api;

#ifdef TRLAUNCH_DLOPEN

static inline hipError_t trlaunch_hip_open(const trlaunch_hip_api **out) {
    static trlaunch_hip_api table;
    static const trlaunch_hip_api *ready; /* written once, under the lock */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const char *const files[] = {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"};
    static const char *const names[] = {
        "hipGetErrorName", "hipGetDevice", "hipSetDevice", "hipModuleLoadData", "hipModuleGetFunction",
        "hipModuleLaunchKernel", "hipModuleLaunchCooperativeKernel", "hipMallocAsync", "hipFreeAsync",
        "hipMemsetD8Async",
    };
    hipError_t status = hipSuccess;
    *out = __atomic_load_n(&ready, __ATOMIC_ACQUIRE);
    if (*out) return hipSuccess;
    pthread_mutex_lock(&lock);
    if (!ready) {
        void *library = NULL;
        char *slot = (char *)&table;
        size_t i;
        for (i = 0; !library && i < sizeof files / sizeof *files; i++) library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) status = hipErrorSharedObjectInitFailed;
        for (i = 0; library && i < sizeof names / sizeof *names; i++) {
            void *symbol = dlsym(library, names[i]);
            if (!symbol) status = hipErrorSharedObjectSymbolNotFound;
            memcpy(slot + i * sizeof symbol, &symbol, sizeof symbol); /* ISO C converts no data pointer to a function's */
        }
        if (status == hipSuccess) __atomic_store_n(&ready, &table, __ATOMIC_RELEASE);
    }
    *out = ready;
    pthread_mutex_unlock(&lock);
    return status;
}

#else

static inline hipError_t trlaunch_hip_malloc_async(void **out, size_t size, hipStream_t stream) {
    return hipMallocAsync(out, size, stream); /* in C++ the name stands for a template as well */
}

static inline hipError_t trlaunch_hip_open(const trlaunch_hip_api **out) {
    static const trlaunch_hip_api table = {
        hipGetErrorName,       hipGetDevice,         hipSetDevice,
        hipModuleLoadData,     hipModuleGetFunction,
        hipModuleLaunchKernel, hipModuleLaunchCooperativeKernel,
        trlaunch_hip_malloc_async, hipFreeAsync,
        hipMemsetD8Async,
    };
    *out = &table;
    return hipSuccess;
}

#endif

/* The name of a status, "hipErrorInvalidValue"; never null. */
static inline const char *trlaunch_hip_error_name(hipError_t status) {
    const trlaunch_hip_api *hip;
    const char *name = NULL;
    if (trlaunch_hip_open(&hip) == hipSuccess) name = hip->GetErrorName(status);
    if (name) return name;
    if (status == hipErrorSharedObjectInitFailed) return "hipErrorSharedObjectInitFailed";
    if (status == hipErrorSharedObjectSymbolNotFound) return "hipErrorSharedObjectSymbolNotFound";
    return "hipErrorUnknown";
}

/* Make a device current in the calling thread; without it that is device 0. */
static inline hipError_t trlaunch_hip_use_device(int ordinal) {
    const trlaunch_hip_api *hip;
    hipError_t status = trlaunch_hip_open(&hip);
    return status == hipSuccess ? hip->SetDevice(ordinal) : status;
}

/* ---- kernels ------------------------------------------------------------------------------------------------- */

typedef struct trlaunch_hip_entry {
    struct trlaunch_hip_entry *next;
    int device;
    hipFunction_t function;
} trlaunch_hip_entry;

typedef struct {
    const unsigned char *image;
    const char *name;
    unsigned int threads, shared;
    int cooperative;
    pthread_mutex_t lock;
    trlaunch_hip_entry *entries; /* grows at its head; whoever reads it needs no lock */
} trlaunch_hip_kernel;

static inline trlaunch_hip_entry *trlaunch_hip_find(trlaunch_hip_kernel *kernel, int device) {
    trlaunch_hip_entry *entry = __atomic_load_n(&kernel->entries, __ATOMIC_ACQUIRE);
    while (entry && entry->device != device) entry = entry->next;
    return entry;
}

/* The kernel on the calling thread's device, loaded when this is its first use there. */
static inline hipError_t trlaunch_hip_load(const trlaunch_hip_api *hip, trlaunch_hip_kernel *kernel,
                                           hipFunction_t *function) {
    int device;
    trlaunch_hip_entry *entry;
    hipError_t status = hip->GetDevice(&device);
    if (status != hipSuccess) return status;
    entry = trlaunch_hip_find(kernel, device);
    if (!entry) {
        pthread_mutex_lock(&kernel->lock);
        entry = trlaunch_hip_find(kernel, device);
        if (!entry) {
            hipModule_t module;
            entry = (trlaunch_hip_entry *)malloc(sizeof *entry);
            status = entry ? hip->ModuleLoadData(&module, kernel->image) : hipErrorOutOfMemory;
            if (status == hipSuccess) status = hip->ModuleGetFunction(&entry->function, module, kernel->name);
            if (status == hipSuccess) {
                entry->device = device;
                entry->next = kernel->entries;
                __atomic_store_n(&kernel->entries, entry, __ATOMIC_RELEASE);
            } else {
                free(entry);
            }
        }
        pthread_mutex_unlock(&kernel->lock);
        if (status != hipSuccess) return status;
    }
    *function = entry->function;
    return hipSuccess;
}

static inline hipError_t trlaunch_hip_launch(trlaunch_hip_kernel *kernel, hipStream_t stream,
                                             const unsigned int *programs, void **parameters) {
    const trlaunch_hip_api *hip;
    hipFunction_t function;
    hipError_t status = trlaunch_hip_open(&hip);
    if (status == hipSuccess) status = trlaunch_hip_load(hip, kernel, &function);
    if (status != hipSuccess) return status;
    if (kernel->cooperative)
        return hip->ModuleLaunchCooperativeKernel(function, programs[0], programs[1], programs[2], kernel->threads, 1, 1,
                                                  kernel->shared, stream, parameters);
    return hip->ModuleLaunchKernel(function, programs[0], programs[1], programs[2], kernel->threads, 1, 1,
                                   kernel->shared, stream, parameters, NULL);
}

/* Scratch: memory in the order of the stream, from the device's current pool. */
static inline hipError_t trlaunch_hip_allocate(hipDeviceptr_t *out, size_t size, int zeros, hipStream_t stream) {
    const trlaunch_hip_api *hip;
    hipError_t status = trlaunch_hip_open(&hip);
    if (status == hipSuccess) status = hip->MallocAsync((void **)out, size, stream);
    if (status == hipSuccess && zeros) {
        status = hip->MemsetD8Async(*out, 0, size, stream);
        if (status != hipSuccess) (void)hip->FreeAsync((void *)*out, stream);
    }
    return status;
}

static inline hipError_t trlaunch_hip_release(hipDeviceptr_t at, hipStream_t stream) {
    const trlaunch_hip_api *hip;
    hipError_t status = trlaunch_hip_open(&hip);
    return status == hipSuccess ? hip->FreeAsync((void *)at, stream) : status;
}

#endif /* TRLAUNCH_HIP_SUPPORT_1 */
