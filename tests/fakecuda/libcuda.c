/*
 * A libcuda.so.1 without a GPU: it simulates devices, contexts, modules and memory on the host, and writes every call
 * that reaches it to a log. Signatures, enumerators and struct layouts are those of cuda.h (CUDA 12 and 13).
 *
 * Set up by environment variables (tests/fakecuda/__init__.py sets them):
 *   FAKECUDA_LOG            file to append one JSON object a call to
 *   FAKECUDA_DEVICES        compute capabilities, "90,80"; empty: no device
 *   FAKECUDA_DRIVER         what cuDriverGetVersion says, 13000
 *   FAKECUDA_OPTIN          shared memory a block may opt in to, in bytes; by default what the architecture has
 *   FAKECUDA_STATIC_SHARED  static shared memory of every kernel, in bytes
 *   FAKECUDA_FAIL           "cuMemAlloc=2,cuLaunchKernelEx=700:3": fail with 2 always, with 700 the third time
 *
 * A status that kills a context on a GPU (700, 719, ...) is answered to every later call that does work, too.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_PTX = 218, INVALID_HANDLE = 400,
    NOT_FOUND = 500, NOT_SUPPORTED = 801, INVALID_CLUSTER_SIZE = 912
};

/* ---- the log ------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static FILE *log_file;
static int initialised;
static int dead_status;                /* not 0: the status that killed the context */
static int thread_count;
static _Thread_local int thread_index; /* from 1, in the order of first calls */

typedef struct { char *text; size_t size; CUresult status; const char *name; } Record;

static void put(Record *r, const char *format, ...) {
    if (!log_file) return;
    va_list list;
    va_start(list, format);
    int n = vsnprintf(NULL, 0, format, list);
    va_end(list);
    r->text = realloc(r->text, r->size + n + 1);
    va_start(list, format);
    vsnprintf(r->text + r->size, n + 1, format, list);
    va_end(list);
    r->size += n;
}

static void number(Record *r, const char *key, long long value) { put(r, ", \"%s\": %lld", key, value); }
static void address(Record *r, const char *key, const void *value) { put(r, ", \"%s\": %llu", key, (unsigned long long)(uintptr_t)value); }

static void string(Record *r, const char *key, const char *value) {
    put(r, ", \"%s\": \"", key);
    for (; *value; value++)
        put(r, *value == '"' || *value == '\\' ? "\\%c" : (unsigned char)*value < 32 ? "\\u%04x" : "%c", *value);
    put(r, "\"");
}

static void bytes(Record *r, const char *key, const void *data, size_t size) {
    put(r, ", \"%s\": \"", key);
    for (size_t i = 0; i < size; i++) put(r, "%02x", ((const unsigned char *)data)[i]);
    put(r, "\"");
}

static void array(Record *r, const char *key, int count, ...) {
    va_list list;
    va_start(list, count);
    put(r, ", \"%s\": [", key);
    for (int i = 0; i < count; i++) put(r, i ? ", %u" : "%u", va_arg(list, unsigned));
    put(r, "]");
    va_end(list);
}

typedef struct { char name[64]; int status, after; } Failure; /* after: 0 every call, n the n-th from now */
static Failure failures[64];
static int failure_count;

static int is_sticky(int status) {
    static const int codes[] = {214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) if (codes[i] == status) return 1;
    return 0;
}

static int injected(const char *name) {
    for (int i = 0; i < failure_count; i++) {
        Failure *f = &failures[i];
        if (strcmp(f->name, name) || f->after < 0) continue;
        if (f->after == 0) return f->status;
        if (--f->after == 0) { f->after = -1; return f->status; }
    }
    return SUCCESS;
}

/* Control function for the process under test: fail the n-th next call of that name (0: every one); status 0 heals. */
void fakecuda_fail(const char *name, int status, int nth) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < failure_count && strcmp(failures[i].name, name)) i++;
    if (i < (int)(sizeof failures / sizeof *failures)) {
        snprintf(failures[i].name, sizeof failures[i].name, "%s", name);
        failures[i].status = status;
        failures[i].after = status ? nth : -1;
        if (i == failure_count) failure_count++;
    }
    pthread_mutex_unlock(&lock);
}

static Record begin(const char *name) {
    Record r = {NULL, 0, SUCCESS, name};
    pthread_mutex_lock(&lock);
    if (!thread_index) thread_index = ++thread_count;
    put(&r, "{\"call\": \"%s\", \"thread\": %d", name, thread_index);
    return r;
}

static CUresult end(Record *r, CUresult status) {
    if (log_file) {
        fprintf(log_file, "%s, \"status\": %d}\n", r->text, status);
        fflush(log_file);
    }
    free(r->text);
    pthread_mutex_unlock(&lock);
    return status;
}

/* Whether the call fails before it does anything; `works` says that a dead context answers it with its death. */
static int fails(Record *r, int works) {
    r->status = injected(r->name);
    if (r->status) {
        put(r, ", \"injected\": true");
        if (is_sticky(r->status)) dead_status = r->status;
    } else if (!initialised) {
        r->status = NOT_INITIALIZED;
    } else if (works && dead_status) {
        r->status = dead_status;
    }
    return r->status;
}

#define CALL(name) Record r = begin(name)
#define STOP_IF_FAILING(works) do { if (fails(&r, works)) return end(&r, r.status); } while (0)
#define REFUSE_IF(condition, code) do { if (condition) return end(&r, code); } while (0)

/* ---- devices, contexts, streams, memory ---------------------------------------------------------------------- */

typedef struct Context { int device; int alive; unsigned long long id; } Context;
typedef struct Stream { Context *context; } Stream;
typedef struct Event { Context *context; } Event;
typedef struct Pool { int device; } Pool;

static int device_count, capabilities[16], driver_version, optin, static_shared;
static Context *primary[16];
static unsigned long long context_ids = 1;

#define STACK 64
static _Thread_local Context *stack[STACK];
static _Thread_local int depth;
static _Thread_local int capture_mode; /* CU_STREAM_CAPTURE_MODE_GLOBAL */

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

enum { DEVICE_MEMORY, MANAGED_MEMORY, LOCKED_MEMORY };
typedef struct Block { char *start; size_t size; int device, kind, pooled; struct Block *next; } Block;
static Block *blocks;

static Block *find(CUdeviceptr at) {
    for (Block *b = blocks; b; b = b->next)
        if ((char *)at >= b->start && (char *)at < b->start + b->size) return b;
    return NULL;
}

static Block *track(void *start, size_t size, int device, int kind, int pooled) {
    Block *b = malloc(sizeof *b);
    *b = (Block){start, size, device, kind, pooled, blocks};
    return blocks = b;
}

static int release(CUdeviceptr at, int pooled, int owned) {
    for (Block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->start == (char *)at && (*b)->pooled == pooled) {
            Block *gone = *b;
            *b = gone->next;
            if (owned) free(gone->start);
            free(gone);
            return 1;
        }
    return 0;
}

/* Streams and events live in one table, so that a foreign handle is recognised without being followed. */
static void *handles[4096];
static int handle_count;

static void *remember(void *handle) {
    if (handle_count < (int)(sizeof handles / sizeof *handles)) handles[handle_count++] = handle;
    return handle;
}

static int known(const void *handle) {
    for (int i = 0; i < handle_count; i++) if (handles[i] == handle) return 1;
    return 0;
}

static void forget(void *handle) {
    for (int i = 0; i < handle_count; i++) if (handles[i] == handle) handles[i] = handles[--handle_count];
    free(handle);
}

/* Status of using `stream` in the current context: 0, 1 and 2 are the default streams of any context. */
static CUresult stream_status(const Stream *stream) {
    if (!current()) return INVALID_CONTEXT;
    if ((uintptr_t)stream <= 2) return SUCCESS;
    return known(stream) && stream->context == current() ? SUCCESS : INVALID_HANDLE;
}

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

__attribute__((constructor)) static void set_up(void) {
    const char *path = getenv("FAKECUDA_LOG");
    if (path) log_file = fopen(path, "a");
    driver_version = setting("FAKECUDA_DRIVER", 13000);
    optin = setting("FAKECUDA_OPTIN", 0);
    static_shared = setting("FAKECUDA_STATIC_SHARED", 0);
    const char *devices = getenv("FAKECUDA_DEVICES");
    char *list = strdup(devices ? devices : "90"), *rest = list, *item;
    while ((item = strsep(&rest, ",")))
        if (*item && device_count < 16) capabilities[device_count++] = atoi(item);
    free(list);
    const char *fail = getenv("FAKECUDA_FAIL");
    list = rest = strdup(fail ? fail : "");
    while ((item = strsep(&rest, ","))) {
        char *status = strchr(item, '='), *nth = strchr(item, ':');
        if (!status) continue;
        *status++ = 0;
        fakecuda_fail(item, atoi(status), nth ? atoi(nth + 1) : 0);
    }
    free(list);
}

static int optin_limit(int device) {
    int cc = capabilities[device];
    if (optin) return optin;
    return cc >= 90 && cc < 120 ? 232448 : cc == 80 || cc == 87 ? 166912 : cc >= 86 ? 101376 : 65536;
}

/* ---- status texts -------------------------------------------------------------------------------------------- */

static const struct { int code; const char *name, *text; } texts[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks in cooperative launch"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "invalid cluster size"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult status_text(int code, const char **out, int name) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == code) {
            *out = name ? texts[i].name : texts[i].text;
            return SUCCESS;
        }
    *out = NULL;
    return INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult code, const char **out) { return status_text(code, out, 1); }
CUresult cuGetErrorString(CUresult code, const char **out) { return status_text(code, out, 0); }

/* ---- initialisation and devices ------------------------------------------------------------------------------ */

CUresult cuInit(unsigned flags) {
    CALL("cuInit");
    number(&r, "flags", flags);
    CUresult status = injected("cuInit");
    REFUSE_IF(status, status);
    REFUSE_IF(!device_count, NO_DEVICE);
    initialised = 1;
    return end(&r, SUCCESS);
}

CUresult cuDriverGetVersion(int *version) {
    CALL("cuDriverGetVersion");
    CUresult status = injected("cuDriverGetVersion");
    REFUSE_IF(status, status);
    *version = driver_version;
    return end(&r, SUCCESS);
}

CUresult cuDeviceGetCount(int *count) {
    CALL("cuDeviceGetCount");
    STOP_IF_FAILING(0);
    *count = device_count;
    return end(&r, SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CALL("cuDeviceGet");
    number(&r, "ordinal", ordinal);
    STOP_IF_FAILING(0);
    REFUSE_IF(ordinal < 0 || ordinal >= device_count, INVALID_DEVICE);
    *device = ordinal;
    return end(&r, SUCCESS);
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    CALL("cuDeviceGetName");
    number(&r, "device", device);
    STOP_IF_FAILING(0);
    REFUSE_IF(device < 0 || device >= device_count, INVALID_DEVICE);
    snprintf(name, size, "Fake GPU %d (sm_%d)", device, capabilities[device]);
    return end(&r, SUCCESS);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    CALL("cuDeviceGetAttribute");
    number(&r, "attribute", attribute);
    number(&r, "device", device);
    STOP_IF_FAILING(0);
    REFUSE_IF(device < 0 || device >= device_count, INVALID_DEVICE);
    int cc = capabilities[device];
    switch (attribute) { /* CUdevice_attribute */
    case 1: case 2: case 3: *value = 1024; break;     /* MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_X, _Y */
    case 4: *value = 64; break;                       /* MAX_BLOCK_DIM_Z */
    case 5: *value = 2147483647; break;               /* MAX_GRID_DIM_X */
    case 6: case 7: *value = 65535; break;            /* MAX_GRID_DIM_Y, _Z */
    case 8: *value = 49152; break;                    /* MAX_SHARED_MEMORY_PER_BLOCK */
    case 10: *value = 32; break;                      /* WARP_SIZE */
    case 16: *value = 132; break;                     /* MULTIPROCESSOR_COUNT */
    case 41: case 83: case 115: *value = 1; break;    /* UNIFIED_ADDRESSING, MANAGED_MEMORY, MEMORY_POOLS_SUPPORTED */
    case 75: *value = cc / 10; break;                 /* COMPUTE_CAPABILITY_MAJOR */
    case 76: *value = cc % 10; break;                 /* COMPUTE_CAPABILITY_MINOR */
    case 97: *value = optin_limit(device); break;     /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    case 120: *value = cc >= 90; break;               /* CLUSTER_LAUNCH */
    default: *value = 0;
    }
    return end(&r, SUCCESS);
}

/* ---- contexts ------------------------------------------------------------------------------------------------ */

static Context *make_context(int device) {
    Context *c = malloc(sizeof *c);
    *c = (Context){device, 1, context_ids++};
    return c;
}

CUresult cuDevicePrimaryCtxRetain(Context **context, CUdevice device) {
    CALL("cuDevicePrimaryCtxRetain");
    number(&r, "device", device);
    STOP_IF_FAILING(1);
    REFUSE_IF(device < 0 || device >= device_count, INVALID_DEVICE);
    if (!primary[device]) primary[device] = make_context(device);
    address(&r, "context", *context = primary[device]);
    return end(&r, SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    CALL("cuDevicePrimaryCtxRelease");
    number(&r, "device", device);
    STOP_IF_FAILING(0);
    return end(&r, SUCCESS);
}

/* As on a GPU, the handle stays and stands for a context with another identity. */
CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    CALL("cuDevicePrimaryCtxReset");
    number(&r, "device", device);
    STOP_IF_FAILING(0);
    if (primary[device]) primary[device]->id = context_ids++;
    return end(&r, SUCCESS);
}

static CUresult create_context(Context **context, unsigned flags, CUdevice device) {
    CALL("cuCtxCreate");
    number(&r, "flags", flags);
    number(&r, "device", device);
    STOP_IF_FAILING(1);
    REFUSE_IF(device < 0 || device >= device_count, INVALID_DEVICE);
    REFUSE_IF(depth == STACK, OUT_OF_MEMORY);
    address(&r, "context", *context = stack[depth++] = make_context(device));
    return end(&r, SUCCESS);
}

CUresult cuCtxCreate_v2(Context **c, unsigned flags, CUdevice device) { return create_context(c, flags, device); }
CUresult cuCtxCreate_v3(Context **c, void *affinity, int count, unsigned flags, CUdevice device) {
    (void)affinity, (void)count;
    return create_context(c, flags, device);
}
CUresult cuCtxCreate_v4(Context **c, void *parameters, unsigned flags, CUdevice device) {
    (void)parameters;
    return create_context(c, flags, device);
}

CUresult cuCtxDestroy_v2(Context *context) {
    CALL("cuCtxDestroy");
    address(&r, "context", context);
    STOP_IF_FAILING(0);
    if (current() == context) depth--;
    context->alive = 0; /* kept, so that using it afterwards is noticed */
    return end(&r, SUCCESS);
}

CUresult cuCtxPushCurrent_v2(Context *context) {
    CALL("cuCtxPushCurrent");
    address(&r, "context", context);
    STOP_IF_FAILING(0);
    REFUSE_IF(!context || !context->alive, INVALID_CONTEXT);
    REFUSE_IF(depth == STACK, OUT_OF_MEMORY);
    stack[depth++] = context;
    return end(&r, SUCCESS);
}

CUresult cuCtxPopCurrent_v2(Context **context) {
    CALL("cuCtxPopCurrent");
    CUresult status = fails(&r, 0);
    REFUSE_IF(!depth, INVALID_CONTEXT);
    Context *popped = stack[--depth]; /* popped even if the call is made to fail, as after an earlier failed launch */
    address(&r, "context", popped);
    REFUSE_IF(status, status);
    if (context) *context = popped;
    return end(&r, SUCCESS);
}

CUresult cuCtxSetCurrent(Context *context) {
    CALL("cuCtxSetCurrent");
    address(&r, "context", context);
    STOP_IF_FAILING(0);
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return end(&r, SUCCESS);
}

CUresult cuCtxGetCurrent(Context **context) {
    CALL("cuCtxGetCurrent");
    STOP_IF_FAILING(0);
    address(&r, "context", *context = current());
    return end(&r, SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device) {
    CALL("cuCtxGetDevice");
    STOP_IF_FAILING(0);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    *device = current()->device;
    return end(&r, SUCCESS);
}

CUresult cuCtxGetId(Context *context, unsigned long long *id) {
    CALL("cuCtxGetId");
    STOP_IF_FAILING(0);
    if (!context) context = current();
    REFUSE_IF(!context || !context->alive, INVALID_CONTEXT);
    number(&r, "id", *id = context->id);
    return end(&r, SUCCESS);
}

CUresult cuCtxSynchronize(void) {
    CALL("cuCtxSynchronize");
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    return end(&r, SUCCESS);
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    CALL("cuThreadExchangeStreamCaptureMode");
    number(&r, "mode", *mode);
    STOP_IF_FAILING(0);
    int previous = capture_mode;
    capture_mode = *mode;
    *mode = previous;
    return end(&r, SUCCESS);
}

/* ---- modules and kernels ------------------------------------------------------------------------------------- */

typedef struct Module { Context *context; unsigned long long context_id; char *data; size_t size; uint64_t hash; } Module;
typedef struct Function { Module *module; char *name; int attributes[17]; struct Function *next; } Function;
static Function *functions;

enum { MAX_THREADS, SHARED_SIZE, CONST_SIZE, LOCAL_SIZE, NUM_REGS, PTX_VERSION, BINARY_VERSION,
       MAX_DYNAMIC_SHARED = 8, NON_PORTABLE_CLUSTER = 14 }; /* CUfunction_attribute */

static uint64_t fnv1a(const void *data, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

static size_t elf_size(const char *data) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)data;
    size_t size = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    size_t programs = header->e_phoff + (size_t)header->e_phnum * header->e_phentsize;
    if (programs > size) size = programs;
    for (int i = 0; i < header->e_shnum; i++) {
        const Elf64_Shdr *section = (const Elf64_Shdr *)(data + header->e_shoff + i * header->e_shentsize);
        size_t stop = section->sh_type == SHT_NOBITS ? 0 : section->sh_offset + section->sh_size;
        if (stop > size) size = stop;
    }
    return size;
}

static void write_log(char *buffer, size_t size, const char *text) {
    if (buffer && size) snprintf(buffer, size, "%s", text);
}

static CUresult load(Module **module, const char *data, unsigned count, const int *options, void **values) {
    CALL("cuModuleLoadDataEx");
    int is_elf = !memcmp(data, ELFMAG, SELFMAG);
    size_t size = is_elf ? elf_size(data) : strlen(data);
    number(&r, "size", size);
    put(&r, ", \"hash\": %llu", (unsigned long long)fnv1a(data, size));
    string(&r, "format", is_elf ? "elf" : "text");
    number(&r, "capture_mode", capture_mode);
    char *info = NULL, *error = NULL;
    size_t info_size = 0, error_size = 0;
    put(&r, ", \"options\": [");
    for (unsigned i = 0; i < count; i++) {
        put(&r, i ? ", %d" : "%d", options[i]);
        switch (options[i]) { /* CUjit_option */
        case 3: info = values[i]; break;
        case 4: info_size = (uint32_t)(uintptr_t)values[i]; break;
        case 5: error = values[i]; break;
        case 6: error_size = (uint32_t)(uintptr_t)values[i]; break;
        }
    }
    put(&r, "]");
    if (fails(&r, 1)) {
        write_log(error, error_size, "fake compiler: made to fail");
        return end(&r, r.status);
    }
    REFUSE_IF(!current(), INVALID_CONTEXT);
    address(&r, "context", current());
    if (!is_elf) {
        if (!strstr(data, ".entry")) {
            write_log(error, error_size, "fake compiler: line 1: no .entry in the text");
            return end(&r, INVALID_PTX);
        }
        write_log(info, info_size, "fake compiler: compiled 1 module");
    }
    Module *m = malloc(sizeof *m);
    *m = (Module){current(), current()->id, malloc(size), size, fnv1a(data, size)};
    memcpy(m->data, data, size);
    address(&r, "module", *module = m);
    return end(&r, SUCCESS);
}

CUresult cuModuleLoadDataEx(Module **module, const void *data, unsigned count, int *options, void **values) {
    return load(module, data, count, options, values);
}
CUresult cuModuleLoadData(Module **module, const void *data) { return load(module, data, 0, NULL, NULL); }

CUresult cuModuleUnload(Module *module) {
    CALL("cuModuleUnload");
    address(&r, "module", module);
    number(&r, "capture_mode", capture_mode);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current() || module->context != current() || module->context_id != current()->id, INVALID_CONTEXT);
    return end(&r, SUCCESS);
}

CUresult cuModuleGetFunction(Function **function, Module *module, const char *name) {
    CALL("cuModuleGetFunction");
    address(&r, "module", module);
    string(&r, "name", name);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    REFUSE_IF(!memmem(module->data, module->size, name, strlen(name)), NOT_FOUND);
    Function *f = functions;
    while (f && (f->module != module || strcmp(f->name, name))) f = f->next;
    if (!f) {
        int cc = capabilities[module->context->device];
        f = calloc(1, sizeof *f);
        f->module = module;
        f->name = strdup(name);
        f->attributes[MAX_THREADS] = 1024;
        f->attributes[SHARED_SIZE] = static_shared;
        f->attributes[CONST_SIZE] = 16;
        f->attributes[LOCAL_SIZE] = 8;
        f->attributes[NUM_REGS] = 32;
        f->attributes[PTX_VERSION] = f->attributes[BINARY_VERSION] = cc;
        f->attributes[MAX_DYNAMIC_SHARED] = 49152 - static_shared;
        f->next = functions;
        functions = f;
    }
    address(&r, "function", *function = f);
    return end(&r, SUCCESS);
}

CUresult cuFuncGetAttribute(int *value, int attribute, Function *function) {
    CALL("cuFuncGetAttribute");
    number(&r, "attribute", attribute);
    string(&r, "function", function->name);
    STOP_IF_FAILING(1);
    REFUSE_IF(attribute < 0 || attribute > 16, INVALID_VALUE);
    *value = function->attributes[attribute];
    return end(&r, SUCCESS);
}

CUresult cuFuncSetAttribute(Function *function, int attribute, int value) {
    CALL("cuFuncSetAttribute");
    string(&r, "function", function->name);
    number(&r, "attribute", attribute);
    number(&r, "value", value);
    STOP_IF_FAILING(1);
    REFUSE_IF(attribute < MAX_DYNAMIC_SHARED || attribute > 16, INVALID_VALUE);
    REFUSE_IF(attribute == MAX_DYNAMIC_SHARED &&
              value > optin_limit(function->module->context->device) - static_shared, INVALID_VALUE);
    function->attributes[attribute] = value;
    return end(&r, SUCCESS);
}

CUresult cuFuncSetCacheConfig(Function *function, int config) {
    CALL("cuFuncSetCacheConfig");
    string(&r, "function", function->name);
    number(&r, "config", config);
    STOP_IF_FAILING(1);
    return end(&r, SUCCESS);
}

/* ---- launches ------------------------------------------------------------------------------------------------ */

typedef struct { int id; char pad[4]; union { char bytes[64]; int value; unsigned dim[3]; } value; } Attribute;
typedef struct { unsigned grid[3], block[3], shared; Stream *stream; Attribute *attributes; unsigned count; } Config;

enum { COOPERATIVE = 2, CLUSTER_DIMENSION = 4, CLUSTER_POLICY = 5, STREAM_SERIALIZATION = 6 }; /* CUlaunchAttributeID */

static const unsigned *record_config(Record *r, const Config *c) {
    static const unsigned one[3] = {1, 1, 1};
    const unsigned *cluster = one;
    array(r, "grid", 3, c->grid[0], c->grid[1], c->grid[2]);
    array(r, "block", 3, c->block[0], c->block[1], c->block[2]);
    number(r, "shared", c->shared);
    address(r, "stream", c->stream);
    put(r, ", \"attributes\": {");
    for (unsigned i = 0; i < c->count; i++) {
        const Attribute *a = &c->attributes[i];
        if (i) put(r, ", ");
        switch (a->id) {
        case CLUSTER_DIMENSION:
            cluster = a->value.dim;
            put(r, "\"CLUSTER_DIMENSION\": [%u, %u, %u]", cluster[0], cluster[1], cluster[2]);
            break;
        case CLUSTER_POLICY: put(r, "\"CLUSTER_SCHEDULING_POLICY_PREFERENCE\": %d", a->value.value); break;
        case COOPERATIVE: put(r, "\"COOPERATIVE\": %d", a->value.value); break;
        case STREAM_SERIALIZATION: put(r, "\"PROGRAMMATIC_STREAM_SERIALIZATION\": %d", a->value.value); break;
        default: put(r, "\"%d\": %d", a->id, a->value.value);
        }
    }
    put(r, "}");
    return cluster;
}

static CUresult config_status(const Config *c, const Function *f, const unsigned *cluster) {
    unsigned ctas = cluster[0] * cluster[1] * cluster[2];
    if (!current()) return INVALID_CONTEXT;
    if (f->module->context != current() || f->module->context_id != current()->id) return INVALID_HANDLE;
    if (stream_status(c->stream)) return stream_status(c->stream);
    for (int i = 0; i < 3; i++)
        if (!c->grid[i] || !c->block[i] || !cluster[i]) return INVALID_VALUE;
    for (int i = 0; i < 3; i++)
        if (c->grid[i] % cluster[i]) return INVALID_CLUSTER_SIZE;
    if (c->block[0] * c->block[1] * c->block[2] > 1024) return INVALID_VALUE;
    if ((int)c->shared > f->attributes[MAX_DYNAMIC_SHARED]) return INVALID_VALUE;
    if (ctas > 1 && capabilities[current()->device] < 90) return INVALID_VALUE;
    if (ctas > (f->attributes[NON_PORTABLE_CLUSTER] ? 16 : 8)) return INVALID_CLUSTER_SIZE;
    return SUCCESS;
}

CUresult cuLaunchKernelEx(const Config *config, Function *function, void **parameters, void **extra) {
    CALL("cuLaunchKernelEx");
    string(&r, "function", function->name);
    put(&r, ", \"hash\": %llu", (unsigned long long)function->module->hash);
    address(&r, "context", current());
    const unsigned *cluster = record_config(&r, config);
    const void *buffer = NULL;
    size_t size = 0;
    for (int i = 0; extra && extra[i]; i += 2) { /* CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE */
        if ((uintptr_t)extra[i] == 1) buffer = extra[i + 1];
        else if ((uintptr_t)extra[i] == 2) size = *(size_t *)extra[i + 1];
        else return end(&r, INVALID_VALUE);
    }
    bytes(&r, "parameters", buffer, buffer ? size : 0);
    number(&r, "misalignment", (uintptr_t)buffer % 64);
    STOP_IF_FAILING(1);
    REFUSE_IF(parameters, INVALID_VALUE); /* sizes are not known here: only the packed buffer is understood */
    return end(&r, config_status(config, function, cluster));
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, Function *function, int threads, size_t shared) {
    CALL("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    string(&r, "function", function->name);
    number(&r, "threads", threads);
    number(&r, "shared", shared);
    STOP_IF_FAILING(1);
    REFUSE_IF(threads <= 0, INVALID_VALUE);
    int by_shared = 233472 / ((int)shared + static_shared + 1024);
    *count = 2048 / threads < by_shared ? 2048 / threads : by_shared;
    return end(&r, SUCCESS);
}

/* As if one CTA filled a multiprocessor, and clusters of more than two left some over. */
CUresult cuOccupancyMaxActiveClusters(int *count, Function *function, const Config *config) {
    CALL("cuOccupancyMaxActiveClusters");
    string(&r, "function", function->name);
    const unsigned *cluster = record_config(&r, config);
    STOP_IF_FAILING(1);
    unsigned ctas = cluster[0] * cluster[1] * cluster[2];
    REFUSE_IF(ctas > (function->attributes[NON_PORTABLE_CLUSTER] ? 16u : 8u), INVALID_CLUSTER_SIZE);
    *count = ctas <= 2 ? 132 / ctas : 120 / ctas;
    return end(&r, SUCCESS);
}

/* ---- streams and events -------------------------------------------------------------------------------------- */

CUresult cuStreamCreate(Stream **stream, unsigned flags) {
    CALL("cuStreamCreate");
    number(&r, "flags", flags);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    *stream = remember(malloc(sizeof **stream));
    (*stream)->context = current();
    address(&r, "stream", *stream);
    return end(&r, SUCCESS);
}

CUresult cuStreamDestroy_v2(Stream *stream) {
    CALL("cuStreamDestroy");
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(stream), INVALID_HANDLE);
    forget(stream);
    return end(&r, SUCCESS);
}

CUresult cuStreamSynchronize(Stream *stream) {
    CALL("cuStreamSynchronize");
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    return end(&r, stream_status(stream));
}

CUresult cuEventCreate(Event **event, unsigned flags) {
    CALL("cuEventCreate");
    number(&r, "flags", flags);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    *event = remember(malloc(sizeof **event));
    (*event)->context = current();
    address(&r, "event", *event);
    return end(&r, SUCCESS);
}

CUresult cuEventRecord(Event *event, Stream *stream) {
    CALL("cuEventRecord");
    address(&r, "event", event);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(event), INVALID_HANDLE);
    return end(&r, stream_status(stream));
}

CUresult cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    CALL("cuStreamWaitEvent");
    address(&r, "stream", stream);
    address(&r, "event", event);
    number(&r, "flags", flags);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(event), INVALID_HANDLE);
    return end(&r, stream_status(stream));
}

CUresult cuEventSynchronize(Event *event) {
    CALL("cuEventSynchronize");
    address(&r, "event", event);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(event), INVALID_HANDLE);
    return end(&r, SUCCESS);
}

/* The n-th question is answered with n / 8 ms, so that medians can be told. */
CUresult cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *stop) {
    static int asked;
    CALL("cuEventElapsedTime");
    address(&r, "start", start);
    address(&r, "stop", stop);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(start) || !known(stop), INVALID_HANDLE);
    *milliseconds = ++asked / 8.0f;
    return end(&r, SUCCESS);
}

CUresult cuEventDestroy_v2(Event *event) {
    CALL("cuEventDestroy");
    address(&r, "event", event);
    STOP_IF_FAILING(1);
    REFUSE_IF(!known(event), INVALID_HANDLE);
    forget(event);
    return end(&r, SUCCESS);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static CUresult allocate(Record *r, CUdeviceptr *at, size_t size, int device, int kind, int pooled) {
    if (!size) return end(r, INVALID_VALUE);
    if (size > (size_t)1 << 32) return end(r, OUT_OF_MEMORY);
    char *start = aligned_alloc(256, (size + 255) / 256 * 256);
    track(start, size, device, kind, pooled);
    *at = (CUdeviceptr)start;
    address(r, "address", start);
    return end(r, SUCCESS);
}

CUresult cuMemAlloc_v2(CUdeviceptr *at, size_t size) {
    CALL("cuMemAlloc");
    number(&r, "size", size);
    number(&r, "capture_mode", capture_mode);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    return allocate(&r, at, size, current()->device, DEVICE_MEMORY, 0);
}

CUresult cuMemAllocManaged(CUdeviceptr *at, size_t size, unsigned flags) {
    CALL("cuMemAllocManaged");
    number(&r, "size", size);
    number(&r, "flags", flags);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    return allocate(&r, at, size, current()->device, MANAGED_MEMORY, 0);
}

CUresult cuMemFree_v2(CUdeviceptr at) {
    CALL("cuMemFree");
    number(&r, "address", at);
    STOP_IF_FAILING(1);
    return end(&r, release(at, 0, 1) ? SUCCESS : INVALID_VALUE);
}

CUresult cuMemHostRegister_v2(void *start, size_t size, unsigned flags) {
    CALL("cuMemHostRegister");
    address(&r, "address", start);
    number(&r, "size", size);
    number(&r, "flags", flags);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    track(start, size, current()->device, LOCKED_MEMORY, 0);
    return end(&r, SUCCESS);
}

CUresult cuMemHostUnregister(void *start) {
    CALL("cuMemHostUnregister");
    address(&r, "address", start);
    STOP_IF_FAILING(1);
    return end(&r, release((CUdeviceptr)start, 0, 0) ? SUCCESS : INVALID_VALUE);
}

typedef struct { int allocation, handles; struct { int type, id; } location; char rest[72]; } PoolProperties;

CUresult cuMemPoolCreate(Pool **pool, const PoolProperties *properties) {
    CALL("cuMemPoolCreate");
    number(&r, "allocation", properties->allocation);
    number(&r, "handles", properties->handles);
    number(&r, "location", properties->location.type);
    number(&r, "device", properties->location.id);
    number(&r, "capture_mode", capture_mode);
    STOP_IF_FAILING(1);
    REFUSE_IF(properties->allocation != 1 || properties->location.type != 1, INVALID_VALUE);
    *pool = malloc(sizeof **pool);
    (*pool)->device = properties->location.id;
    address(&r, "pool", *pool);
    return end(&r, SUCCESS);
}

CUresult cuMemPoolDestroy(Pool *pool) {
    CALL("cuMemPoolDestroy");
    address(&r, "pool", pool);
    STOP_IF_FAILING(1);
    free(pool);
    return end(&r, SUCCESS);
}

CUresult cuMemPoolSetAttribute(Pool *pool, int attribute, void *value) {
    CALL("cuMemPoolSetAttribute");
    address(&r, "pool", pool);
    number(&r, "attribute", attribute);
    put(&r, ", \"value\": %llu", *(unsigned long long *)value);
    STOP_IF_FAILING(1);
    return end(&r, SUCCESS);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *at, size_t size, Pool *pool, Stream *stream) {
    CALL("cuMemAllocFromPoolAsync");
    number(&r, "size", size);
    address(&r, "pool", pool);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    return allocate(&r, at, size, pool->device, DEVICE_MEMORY, 1);
}

CUresult cuMemAllocAsync(CUdeviceptr *at, size_t size, Stream *stream) {
    CALL("cuMemAllocAsync");
    number(&r, "size", size);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    return allocate(&r, at, size, current()->device, DEVICE_MEMORY, 1);
}

CUresult cuMemFreeAsync(CUdeviceptr at, Stream *stream) {
    CALL("cuMemFreeAsync");
    number(&r, "address", at);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    return end(&r, release(at, 1, 1) ? SUCCESS : INVALID_VALUE);
}

static int inside(CUdeviceptr at, size_t size) {
    Block *b = find(at);
    return b && (char *)at + size <= b->start + b->size;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr at, const void *host, size_t size, Stream *stream) {
    CALL("cuMemcpyHtoDAsync");
    number(&r, "address", at);
    number(&r, "size", size);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    REFUSE_IF(!inside(at, size), INVALID_VALUE);
    memcpy((void *)at, host, size);
    return end(&r, SUCCESS);
}

CUresult cuMemcpyDtoHAsync_v2(void *host, CUdeviceptr at, size_t size, Stream *stream) {
    CALL("cuMemcpyDtoHAsync");
    number(&r, "address", at);
    number(&r, "size", size);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    REFUSE_IF(!inside(at, size), INVALID_VALUE);
    memcpy(host, (void *)at, size);
    return end(&r, SUCCESS);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, Stream *stream) {
    CALL("cuMemcpyDtoDAsync");
    put(&r, ", \"to\": %llu, \"from\": %llu", (unsigned long long)to, (unsigned long long)from);
    number(&r, "size", size);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    REFUSE_IF(!find(to) || !find(from), INVALID_VALUE);
    memmove((void *)to, (void *)from, size);
    return end(&r, SUCCESS);
}

CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t size, Stream *stream) {
    CALL("cuMemsetD8Async");
    number(&r, "address", at);
    number(&r, "value", value);
    number(&r, "size", size);
    address(&r, "stream", stream);
    STOP_IF_FAILING(1);
    REFUSE_IF(stream_status(stream), stream_status(stream));
    REFUSE_IF(!inside(at, size), INVALID_VALUE);
    memset((void *)at, value, size);
    return end(&r, SUCCESS);
}

static CUresult pointer_attribute(const Block *b, int attribute, CUdeviceptr at, void *value) {
    switch (attribute) { /* CUpointer_attribute */
    case 2: *(unsigned *)value = !b ? 0 : b->kind == LOCKED_MEMORY ? 1 : 2; break; /* MEMORY_TYPE */
    case 3: *(CUdeviceptr *)value = b ? at : 0; break;                            /* DEVICE_POINTER */
    case 8: *(unsigned char *)value = b && b->kind == MANAGED_MEMORY; break;      /* IS_MANAGED */
    case 9: *(int *)value = b ? b->device : -2; break;                            /* DEVICE_ORDINAL */
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}

CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr at) {
    CALL("cuPointerGetAttribute");
    number(&r, "address", at);
    number(&r, "attribute", attribute);
    STOP_IF_FAILING(1);
    REFUSE_IF(!find(at), INVALID_VALUE);
    return end(&r, pointer_attribute(find(at), attribute, at, value));
}

/* As documented: memory nobody allocated or registered is answered with success and null values. */
CUresult cuPointerGetAttributes(unsigned count, const int *attributes, void **values, CUdeviceptr at) {
    CALL("cuPointerGetAttributes");
    number(&r, "address", at);
    STOP_IF_FAILING(1);
    for (unsigned i = 0; i < count; i++) {
        CUresult status = pointer_attribute(find(at), attributes[i], at, values[i]);
        REFUSE_IF(status, status);
    }
    return end(&r, SUCCESS);
}

/* ---- tensor maps --------------------------------------------------------------------------------------------- */

static void numbers(Record *r, const char *key, const void *values, int count, int wide) {
    put(r, ", \"%s\": [", key);
    for (int i = 0; i < count; i++)
        put(r, i ? ", %llu" : "%llu",
            wide ? ((const unsigned long long *)values)[i] : ((const unsigned *)values)[i]);
    put(r, "]");
}

CUresult cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *at, const uint64_t *shape,
                                const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave,
                                int swizzle, int promotion, int fill) {
    CALL("cuTensorMapEncodeTiled");
    number(&r, "element_type", type);
    address(&r, "address", at);
    REFUSE_IF(!shape || !strides || !box || !steps, INVALID_VALUE); /* strides for rank 1 too */
    numbers(&r, "shape", shape, rank, 1);
    numbers(&r, "strides", strides, rank - 1, 1);
    numbers(&r, "box", box, rank, 0);
    numbers(&r, "element_strides", steps, rank, 0);
    number(&r, "interleave", interleave);
    number(&r, "swizzle", swizzle);
    number(&r, "l2_promotion", promotion);
    number(&r, "oob_fill", fill);
    STOP_IF_FAILING(1);
    REFUSE_IF(!current(), INVALID_CONTEXT);
    REFUSE_IF(capabilities[current()->device] < 90, NOT_SUPPORTED);
    REFUSE_IF((uintptr_t)at % 16, INVALID_VALUE);
    for (unsigned i = 0; i < rank; i++) {
        REFUSE_IF(!shape[i] || shape[i] > (uint64_t)1 << 32 || !box[i] || box[i] > 256, INVALID_VALUE);
        REFUSE_IF(i && (strides[i - 1] % 16 || strides[i - 1] >> 40), INVALID_VALUE);
    }
    /* Not NVIDIA's encoding, which is not published: bytes that depend on every argument. */
    uint64_t hash = fnv1a(r.text, r.size);
    for (int i = 0; i < 16; i++) ((uint64_t *)map)[i] = hash = fnv1a(&hash, sizeof hash);
    bytes(&r, "map", map, 128);
    return end(&r, SUCCESS);
}

/* ---- symbol lookup ------------------------------------------------------------------------------------------- */

CUresult cuGetProcAddress_v2(const char *name, void **symbol, int version, uint64_t flags, int *found);

#define ENTRY(name, symbol, since) {name, (void *)symbol, since}
static const struct { const char *name; void *symbol; int since; } table[] = {
    ENTRY("cuGetProcAddress", cuGetProcAddress_v2, 0),
    ENTRY("cuGetErrorName", cuGetErrorName, 0),
    ENTRY("cuGetErrorString", cuGetErrorString, 0),
    ENTRY("cuInit", cuInit, 0),
    ENTRY("cuDriverGetVersion", cuDriverGetVersion, 0),
    ENTRY("cuDeviceGetCount", cuDeviceGetCount, 0),
    ENTRY("cuDeviceGet", cuDeviceGet, 0),
    ENTRY("cuDeviceGetName", cuDeviceGetName, 0),
    ENTRY("cuDeviceGetAttribute", cuDeviceGetAttribute, 0),
    ENTRY("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain, 0),
    ENTRY("cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2, 0),
    ENTRY("cuDevicePrimaryCtxReset", cuDevicePrimaryCtxReset_v2, 0),
    ENTRY("cuCtxCreate", cuCtxCreate_v4, 12050),
    ENTRY("cuCtxCreate", cuCtxCreate_v3, 11040),
    ENTRY("cuCtxCreate", cuCtxCreate_v2, 0),
    ENTRY("cuCtxDestroy", cuCtxDestroy_v2, 0),
    ENTRY("cuCtxPushCurrent", cuCtxPushCurrent_v2, 0),
    ENTRY("cuCtxPopCurrent", cuCtxPopCurrent_v2, 0),
    ENTRY("cuCtxSetCurrent", cuCtxSetCurrent, 0),
    ENTRY("cuCtxGetCurrent", cuCtxGetCurrent, 0),
    ENTRY("cuCtxGetDevice", cuCtxGetDevice, 0),
    ENTRY("cuCtxGetId", cuCtxGetId, 0),
    ENTRY("cuCtxSynchronize", cuCtxSynchronize, 0),
    ENTRY("cuThreadExchangeStreamCaptureMode", cuThreadExchangeStreamCaptureMode, 0),
    ENTRY("cuModuleLoadDataEx", cuModuleLoadDataEx, 0),
    ENTRY("cuModuleLoadData", cuModuleLoadData, 0),
    ENTRY("cuModuleUnload", cuModuleUnload, 0),
    ENTRY("cuModuleGetFunction", cuModuleGetFunction, 0),
    ENTRY("cuFuncGetAttribute", cuFuncGetAttribute, 0),
    ENTRY("cuFuncSetAttribute", cuFuncSetAttribute, 0),
    ENTRY("cuFuncSetCacheConfig", cuFuncSetCacheConfig, 0),
    ENTRY("cuLaunchKernelEx", cuLaunchKernelEx, 0),
    ENTRY("cuOccupancyMaxActiveBlocksPerMultiprocessor", cuOccupancyMaxActiveBlocksPerMultiprocessor, 0),
    ENTRY("cuOccupancyMaxActiveClusters", cuOccupancyMaxActiveClusters, 0),
    ENTRY("cuStreamCreate", cuStreamCreate, 0),
    ENTRY("cuStreamDestroy", cuStreamDestroy_v2, 0),
    ENTRY("cuStreamSynchronize", cuStreamSynchronize, 0),
    ENTRY("cuStreamWaitEvent", cuStreamWaitEvent, 0),
    ENTRY("cuEventCreate", cuEventCreate, 0),
    ENTRY("cuEventRecord", cuEventRecord, 0),
    ENTRY("cuEventSynchronize", cuEventSynchronize, 0),
    ENTRY("cuEventElapsedTime", cuEventElapsedTime_v2, 0),
    ENTRY("cuEventDestroy", cuEventDestroy_v2, 0),
    ENTRY("cuMemAlloc", cuMemAlloc_v2, 0),
    ENTRY("cuMemAllocManaged", cuMemAllocManaged, 0),
    ENTRY("cuMemFree", cuMemFree_v2, 0),
    ENTRY("cuMemHostRegister", cuMemHostRegister_v2, 0),
    ENTRY("cuMemHostUnregister", cuMemHostUnregister, 0),
    ENTRY("cuMemPoolCreate", cuMemPoolCreate, 0),
    ENTRY("cuMemPoolDestroy", cuMemPoolDestroy, 0),
    ENTRY("cuMemPoolSetAttribute", cuMemPoolSetAttribute, 0),
    ENTRY("cuMemAllocFromPoolAsync", cuMemAllocFromPoolAsync, 0),
    ENTRY("cuMemAllocAsync", cuMemAllocAsync, 0),
    ENTRY("cuMemFreeAsync", cuMemFreeAsync, 0),
    ENTRY("cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2, 0),
    ENTRY("cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2, 0),
    ENTRY("cuMemcpyDtoDAsync", cuMemcpyDtoDAsync_v2, 0),
    ENTRY("cuMemsetD8Async", cuMemsetD8Async, 0),
    ENTRY("cuPointerGetAttribute", cuPointerGetAttribute, 0),
    ENTRY("cuPointerGetAttributes", cuPointerGetAttributes, 0),
    ENTRY("cuTensorMapEncodeTiled", cuTensorMapEncodeTiled, 0),
};

static void *lookup(const char *name, int version) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, name) && table[i].since <= version) return table[i].symbol;
    return NULL;
}

/*
 * The newest form of a function that the caller's toolkit `version` knows. The bindings look up everything there is
 * before cuInit, which is not recorded.
 */
CUresult cuGetProcAddress_v2(const char *name, void **symbol, int version, uint64_t flags, int *found) {
    (void)flags;
    *symbol = lookup(name, version);
    if (found) *found = !*symbol; /* CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND */
    if (!initialised) return *symbol ? SUCCESS : NOT_FOUND;
    CALL("cuGetProcAddress");
    string(&r, "name", name);
    number(&r, "version", version);
    STOP_IF_FAILING(0);
    return end(&r, *symbol ? SUCCESS : NOT_FOUND);
}
