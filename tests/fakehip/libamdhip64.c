/*
 * A libamdhip64.so without a GPU: it simulates devices, modules and memory on the host, and writes every call that
 * reaches it to a log. Signatures, enumerators and struct layouts are those of hip_runtime_api.h (ROCm 6 and 7).
 *
 * A launch is laid out as AMD's runtime lays it out: the arguments of the kernel, their offsets and sizes, are read
 * from the metadata note of the hsaco that was loaded, and as many bytes are copied from each address given.
 *
 * Set up by environment variables (tests/fakehip/__init__.py sets them):
 *   FAKEHIP_LOG      file to append one JSON object a call to
 *   FAKEHIP_DEVICES  architectures, "gfx942:sramecc+:xnack-,gfx1100"; empty: no device
 *   FAKEHIP_VERSION  what hipDriverGetVersion says, 60443484
 *   FAKEHIP_LDS      LDS of a workgroup in bytes; by default what the architecture has
 *   FAKEHIP_FAIL     "hipMalloc=2,hipModuleLaunchKernel=719:3": fail with 2 always, with 719 the third time
 */
#define _GNU_SOURCE
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int hipError_t;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONFIGURATION = 9, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_IMAGE = 200, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500,
    LAUNCH_FAILURE = 719, COOPERATIVE_TOO_LARGE = 720, NOT_SUPPORTED = 801
};

/* ---- the log ------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static FILE *log_file;
static int initialised;
static int thread_count;
static _Thread_local int thread_index; /* from 1, in the order of first calls */
static _Thread_local hipError_t last_error;
static _Thread_local int device; /* the current one */

typedef struct { char *text; size_t size; const char *name; } Record;

static void put(Record *r, const char *format, ...) {
    va_list list;
    if (!log_file) return;
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
static void string(Record *r, const char *key, const char *value) { put(r, ", \"%s\": \"%s\"", key, value); }

static void bytes(Record *r, const char *key, const void *data, size_t size) {
    put(r, ", \"%s\": \"", key);
    for (size_t i = 0; i < size; i++) put(r, "%02x", ((const unsigned char *)data)[i]);
    put(r, "\"");
}

static void triple(Record *r, const char *key, unsigned x, unsigned y, unsigned z) {
    put(r, ", \"%s\": [%u, %u, %u]", key, x, y, z);
}

typedef struct { char name[64]; int status, after; } Failure; /* after: 0 every call, n the n-th from now */
static Failure failures[64];
static int failure_count;

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
void fakehip_fail(const char *name, int status, int nth) {
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
    Record r = {NULL, 0, name};
    pthread_mutex_lock(&lock);
    if (!thread_index) thread_index = ++thread_count;
    put(&r, "{\"call\": \"%s\", \"thread\": %d, \"device\": %d", name, thread_index, device);
    return r;
}

static hipError_t end(Record *r, hipError_t status) {
    if (status) last_error = status;
    if (log_file) {
        fprintf(log_file, "%s, \"status\": %d}\n", r->text, status);
        fflush(log_file);
    }
    free(r->text);
    pthread_mutex_unlock(&lock);
    return status;
}

#define CALL(name) \
    Record r = begin(name); \
    do { \
        int failing = injected(name); \
        if (failing) { put(&r, ", \"injected\": true"); return end(&r, failing); } \
        if (!initialised) return end(&r, NOT_INITIALIZED); \
    } while (0)
#define REFUSE_IF(condition, code) do { if (condition) return end(&r, code); } while (0)

/* ---- the metadata note: as much of MessagePack as it uses ------------------------------------------------------ */

typedef struct { const uint8_t *at, *end; int bad; } Reader;

static uint64_t big_endian(Reader *m, int count) {
    uint64_t value = 0;
    if (m->end - m->at < count) { m->bad = 1; return 0; }
    while (count--) value = value << 8 | *m->at++;
    return value;
}

/* The next item: 'm' map and 'a' array with their number of entries, 's' text with its length, 'i' a number, 'x' else. */
static char item(Reader *m, uint64_t *value) {
    uint8_t b = (uint8_t)big_endian(m, 1);
    *value = 0;
    if (b <= 0x7f) { *value = b; return 'i'; }
    if (b <= 0x8f) { *value = b & 15; return 'm'; }
    if (b <= 0x9f) { *value = b & 15; return 'a'; }
    if (b <= 0xbf) { *value = b & 31; return 's'; }
    switch (b) {
    case 0xc2: case 0xc3: *value = b & 1; return 'i';
    case 0xcc: case 0xcd: case 0xce: case 0xcf: *value = big_endian(m, 1 << (b - 0xcc)); return 'i';
    case 0xd9: case 0xda: case 0xdb: *value = big_endian(m, 1 << (b - 0xd9)); return 's';
    case 0xdc: case 0xdd: *value = big_endian(m, 2 << (b - 0xdc)); return 'a';
    case 0xde: case 0xdf: *value = big_endian(m, 2 << (b - 0xde)); return 'm';
    }
    m->bad = 1;
    return 'x';
}

static void skip(Reader *m) {
    uint64_t count;
    char kind = item(m, &count);
    if (kind == 's') {
        if ((uint64_t)(m->end - m->at) < count) m->bad = 1; else m->at += count;
    } else if (kind == 'a' || kind == 'm') {
        for (uint64_t i = 0; i < count * (kind == 'm' ? 2 : 1) && !m->bad; i++) skip(m);
    }
}

static void text(Reader *m, char *out, size_t room) {
    uint64_t length;
    if (item(m, &length) != 's' || (uint64_t)(m->end - m->at) < length || length >= room) { m->bad = 1; return; }
    memcpy(out, m->at, length);
    out[length] = 0;
    m->at += length;
}

static unsigned integer(Reader *m) {
    uint64_t value;
    if (item(m, &value) != 'i') m->bad = 1;
    return (unsigned)value;
}

typedef struct { unsigned offset, size; int hidden; } Argument;
typedef struct {
    char name[256];
    Argument arguments[512];
    int count;
    unsigned kernarg, group, private, threads, vgprs;
} Kernel;

static void read_argument(Reader *m, Argument *out) {
    uint64_t count;
    char key[64], kind[64];
    if (item(m, &count) != 'm') m->bad = 1;
    for (uint64_t i = 0; i < count && !m->bad; i++) {
        text(m, key, sizeof key);
        if (!strcmp(key, ".offset")) out->offset = integer(m);
        else if (!strcmp(key, ".size")) out->size = integer(m);
        else if (!strcmp(key, ".value_kind")) { text(m, kind, sizeof kind); out->hidden = !strncmp(kind, "hidden_", 7); }
        else skip(m);
    }
}

static void read_kernel(Reader *m, Kernel *out) {
    uint64_t count, arguments;
    char key[64];
    if (item(m, &count) != 'm') m->bad = 1;
    for (uint64_t i = 0; i < count && !m->bad; i++) {
        text(m, key, sizeof key);
        if (!strcmp(key, ".name")) text(m, out->name, sizeof out->name);
        else if (!strcmp(key, ".kernarg_segment_size")) out->kernarg = integer(m);
        else if (!strcmp(key, ".group_segment_fixed_size")) out->group = integer(m);
        else if (!strcmp(key, ".private_segment_fixed_size")) out->private = integer(m);
        else if (!strcmp(key, ".max_flat_workgroup_size")) out->threads = integer(m);
        else if (!strcmp(key, ".vgpr_count")) out->vgprs = integer(m);
        else if (!strcmp(key, ".args")) {
            if (item(m, &arguments) != 'a' || arguments > 512) { m->bad = 1; return; }
            out->count = (int)arguments;
            for (uint64_t a = 0; a < arguments && !m->bad; a++) read_argument(m, &out->arguments[a]);
        } else skip(m);
    }
}

/* ---- devices, streams, memory ---------------------------------------------------------------------------------- */

typedef struct { char arch[64]; char full[128]; unsigned machine, lds; int wave; } Device;
static Device devices[16];
static int device_count, runtime_version, lds_override;

static const struct { const char *name; unsigned machine; unsigned lds; int wave; } KNOWN[] = {
    {"gfx90a", 0x3f, 65536, 64}, {"gfx942", 0x4c, 65536, 64}, {"gfx950", 0x4f, 163840, 64},
    {"gfx1100", 0x41, 65536, 32}, {"gfx1200", 0x48, 65536, 32}, {"gfx1250", 0x49, 327680, 32},
};

enum { UNREGISTERED = 0, HOST = 1, DEVICE = 2 };
typedef struct Block { char *start; size_t size; int device, kind; struct Block *next; } Block; /* kind: HOST, DEVICE */
static Block *blocks;

static Block *find(const void *at) {
    for (Block *b = blocks; b; b = b->next) if ((char *)at >= b->start && (char *)at < b->start + b->size) return b;
    return NULL;
}

static void *track(size_t size, void *start) { /* of the host, when it is there already */
    Block *b = malloc(sizeof *b);
    int kind = start ? HOST : DEVICE;
    if (!start) start = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
    *b = (Block){start, size, device, kind, blocks};
    blocks = b;
    return start;
}

static int release(void *at) {
    for (Block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->start == (char *)at && (*b)->kind == DEVICE) {
            Block *gone = *b;
            *b = gone->next;
            free(gone->start);
            free(gone);
            return 1;
        }
    return 0;
}

/* Streams, events, modules and functions live in one table, so that a foreign handle is recognised unseen. */
typedef struct { char kind; int device; void *data; } Handle;
static Handle *handles[4096];
static int handle_count;

static Handle *remember(char kind, void *data) {
    Handle *h = malloc(sizeof *h);
    *h = (Handle){kind, device, data};
    if (handle_count < (int)(sizeof handles / sizeof *handles)) handles[handle_count++] = h;
    return h;
}

static int known(const void *handle, char kind) {
    for (int i = 0; i < handle_count; i++) if (handles[i] == handle) return handles[i]->kind == kind;
    return 0;
}

static int forget(void *handle, char kind) {
    for (int i = 0; i < handle_count; i++)
        if (handles[i] == handle && handles[i]->kind == kind) {
            handles[i] = handles[--handle_count];
            free(handle);
            return 1;
        }
    return 0;
}

static hipError_t stream_status(const void *stream) {
    if ((uintptr_t)stream <= 2) return SUCCESS; /* the default streams */
    if (!known(stream, 's')) return INVALID_HANDLE;
    return ((const Handle *)stream)->device == device ? SUCCESS : INVALID_HANDLE;
}

__attribute__((constructor)) static void set_up(void) {
    const char *log_name = getenv("FAKEHIP_LOG"), *list = getenv("FAKEHIP_DEVICES");
    const char *version = getenv("FAKEHIP_VERSION"), *fail = getenv("FAKEHIP_FAIL"), *lds = getenv("FAKEHIP_LDS");
    if (log_name) log_file = fopen(log_name, "a");
    runtime_version = version ? atoi(version) : 60443484;
    lds_override = lds ? atoi(lds) : 0;
    char *copy = strdup(list ? list : ""), *save = NULL;
    for (char *part = strtok_r(copy, ",", &save); part && device_count < 16; part = strtok_r(NULL, ",", &save)) {
        Device *d = &devices[device_count++];
        snprintf(d->full, sizeof d->full, "%s", part);
        snprintf(d->arch, sizeof d->arch, "%.*s", (int)strcspn(part, ":"), part);
        d->lds = 65536;
        d->wave = 64;
        for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
            if (!strcmp(KNOWN[i].name, d->arch)) {
                d->machine = KNOWN[i].machine;
                d->lds = KNOWN[i].lds;
                d->wave = KNOWN[i].wave;
            }
        if (lds_override) d->lds = lds_override;
    }
    free(copy);
    copy = strdup(fail ? fail : "");
    for (char *part = strtok_r(copy, ",", &save); part && failure_count < 64; part = strtok_r(NULL, ",", &save)) {
        Failure *f = &failures[failure_count++];
        sscanf(part, "%63[^=]=%d:%d", f->name, &f->status, &f->after);
    }
    free(copy);
}

/* ---- the calls ------------------------------------------------------------------------------------------------- */

hipError_t hipInit(unsigned flags) {
    Record r = begin("hipInit");
    number(&r, "flags", flags);
    int failing = injected("hipInit");
    if (failing) return end(&r, failing);
    REFUSE_IF(!device_count, NO_DEVICE);
    initialised = 1;
    return end(&r, SUCCESS);
}

hipError_t hipDriverGetVersion(int *version) {
    CALL("hipDriverGetVersion");
    *version = runtime_version;
    return end(&r, SUCCESS);
}

hipError_t hipGetDeviceCount(int *count) {
    CALL("hipGetDeviceCount");
    *count = device_count;
    return end(&r, SUCCESS);
}

hipError_t hipGetDevice(int *found) {
    CALL("hipGetDevice");
    *found = device;
    return end(&r, SUCCESS);
}

hipError_t hipSetDevice(int wanted) {
    CALL("hipSetDevice");
    number(&r, "wanted", wanted);
    REFUSE_IF(wanted < 0 || wanted >= device_count, INVALID_DEVICE);
    device = wanted;
    return end(&r, SUCCESS);
}

/* hipDeviceProp_t of ROCm 6 and later: 1472 bytes, of which these are filled. */
hipError_t hipGetDevicePropertiesR0600(char *properties, int wanted) {
    CALL("hipGetDevicePropertiesR0600");
    REFUSE_IF(wanted < 0 || wanted >= device_count, INVALID_DEVICE);
    const Device *d = &devices[wanted];
    memset(properties, 0, 1472);
    snprintf(properties, 256, "Fake %.200s", d->arch);
    *(size_t *)(properties + 296) = d->lds;                       /* sharedMemPerBlock */
    *(int *)(properties + 308) = d->wave;                         /* warpSize */
    *(int *)(properties + 320) = 1024;                            /* maxThreadsPerBlock */
    memcpy(properties + 336, (int[]){2147483647, 65536, 65536}, 12); /* maxGridSize */
    *(int *)(properties + 388) = 304;                             /* multiProcessorCount */
    snprintf(properties + 1160, 256, "%s", d->full);              /* gcnArchName */
    return end(&r, SUCCESS);
}

typedef struct { Kernel *kernels; int count; } Module;

static hipError_t read_module(const uint8_t *image, Module *out) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    if (memcmp(image, ELFMAG, 4) || header->e_machine != 224) return INVALID_IMAGE;
    const Device *d = &devices[device];
    if ((header->e_flags & 0xff) != d->machine) return NO_BINARY;
    const char *features[] = {"xnack", "sramecc"};
    for (int i = 0; i < 2; i++) { /* 2: must be off, 3: must be on */
        unsigned setting = header->e_flags >> (8 + 2 * i) & 3;
        char wanted[16];
        snprintf(wanted, sizeof wanted, ":%s%c", features[i], setting == 3 ? '+' : '-');
        if (setting >= 2 && !strstr(d->full, wanted)) return NO_BINARY;
    }
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(image + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type != PT_NOTE) continue;
        const uint8_t *note = image + segments[i].p_offset;
        const uint32_t *sizes = (const uint32_t *)note;
        if (sizes[2] != 32) continue;
        const uint8_t *start = note + 12 + (sizes[0] + 3 & ~3u);
        Reader m = {start, start + sizes[1], 0};
        uint64_t entries, kernels;
        char key[64];
        if (item(&m, &entries) != 'm') return INVALID_IMAGE;
        for (uint64_t e = 0; e < entries && !m.bad; e++) {
            text(&m, key, sizeof key);
            if (strcmp(key, "amdhsa.kernels")) { skip(&m); continue; }
            if (item(&m, &kernels) != 'a') return INVALID_IMAGE;
            out->kernels = calloc(kernels, sizeof *out->kernels);
            out->count = (int)kernels;
            for (uint64_t k = 0; k < kernels && !m.bad; k++) read_kernel(&m, &out->kernels[k]);
        }
        return m.bad ? INVALID_IMAGE : SUCCESS;
    }
    return INVALID_IMAGE;
}

hipError_t hipModuleLoadData(void **module, const void *image) {
    CALL("hipModuleLoadData");
    Module *made = calloc(1, sizeof *made);
    hipError_t status = read_module(image, made);
    REFUSE_IF(status, status);
    *module = remember('m', made);
    address(&r, "module", *module);
    return end(&r, SUCCESS);
}

hipError_t hipModuleUnload(void *module) {
    CALL("hipModuleUnload");
    address(&r, "module", module);
    REFUSE_IF(!forget(module, 'm'), INVALID_HANDLE);
    return end(&r, SUCCESS);
}

hipError_t hipModuleGetFunction(void **function, Handle *module, const char *name) {
    CALL("hipModuleGetFunction");
    string(&r, "name", name);
    REFUSE_IF(!known(module, 'm'), INVALID_HANDLE);
    Module *m = module->data;
    for (int i = 0; i < m->count; i++)
        if (!strcmp(m->kernels[i].name, name)) {
            Handle *made = remember('f', &m->kernels[i]);
            made->device = module->device;
            *function = made;
            return end(&r, SUCCESS);
        }
    return end(&r, NOT_FOUND);
}

hipError_t hipFuncGetAttribute(int *value, int attribute, Handle *function) {
    CALL("hipFuncGetAttribute");
    number(&r, "attribute", attribute);
    REFUSE_IF(!known(function, 'f'), INVALID_HANDLE);
    const Kernel *k = function->data;
    switch (attribute) { /* hipFunction_attribute */
    case 0: *value = k->threads; break;
    case 1: *value = k->group; break;
    case 2: *value = 0; break;
    case 3: *value = k->private; break;
    case 4: *value = k->vgprs; break;
    default: return end(&r, INVALID_VALUE);
    }
    return end(&r, SUCCESS);
}

hipError_t hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks_, Handle *function, int block, size_t shared) {
    CALL("hipModuleOccupancyMaxActiveBlocksPerMultiprocessor");
    REFUSE_IF(!known(function, 'f') || block < 1, INVALID_VALUE);
    unsigned by_threads = 2048 / block, by_lds = shared ? devices[device].lds / shared : by_threads;
    *blocks_ = by_threads < by_lds ? by_threads : by_lds;
    return end(&r, SUCCESS);
}

/* Check and record one launch, whichever call it came by. */
static hipError_t launched(Record *r, Handle *function, const unsigned *grid, const unsigned *block, unsigned shared,
                           void *stream, void **params, void **extra, int cooperative) {
    address(r, "function", function);
    triple(r, "grid", grid[0], grid[1], grid[2]);
    triple(r, "block", block[0], block[1], block[2]);
    number(r, "shared", shared);
    address(r, "stream", stream);
    if (!known(function, 'f')) return INVALID_HANDLE;
    const Kernel *k = function->data;
    string(r, "name", k->name);
    if (function->device != device) return INVALID_DEVICE;
    hipError_t status = stream_status(stream);
    if (status) return status;
    for (int i = 0; i < 3; i++) {
        if (!grid[i] || !block[i]) return INVALID_VALUE;
        if ((uint64_t)grid[i] * block[i] > UINT32_MAX) return INVALID_CONFIGURATION;
    }
    if (block[0] * block[1] * block[2] > k->threads) return LAUNCH_FAILURE;
    if (shared + k->group > devices[device].lds) return INVALID_VALUE;
    if (cooperative && (uint64_t)grid[0] * grid[1] * grid[2] > 304 * 2) return COOPERATIVE_TOO_LARGE;
    if (params && extra) return INVALID_VALUE;
    uint8_t *kernarg = calloc(1, k->kernarg + 1);
    int passed = 0;
    unsigned used = 0, misaligned = 0;
    for (int i = 0; i < k->count; i++) {
        const Argument *a = &k->arguments[i];
        if (a->hidden) continue;
        const void *from = NULL;
        if (params) from = params[passed];
        else if (extra && extra[0] == (void *)1 && extra[2] == (void *)2 && extra[4] == (void *)3)
            from = (const uint8_t *)extra[1] + a->offset;
        if (!from || a->offset + a->size > k->kernarg) { free(kernarg); return INVALID_VALUE; }
        if (a->size <= 8 && (a->size & (a->size - 1)) == 0) misaligned += (uintptr_t)from % a->size != 0;
        memcpy(kernarg + a->offset, from, a->size);
        used = a->offset + a->size;
        passed++;
    }
    bytes(r, "kernarg", kernarg, used);
    number(r, "arguments", passed);
    number(r, "misaligned", misaligned);
    number(r, "kernarg_size", k->kernarg);
    free(kernarg);
    return SUCCESS;
}

hipError_t hipModuleLaunchKernel(Handle *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                 unsigned bz, unsigned shared, void *stream, void **params, void **extra) {
    CALL("hipModuleLaunchKernel");
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return end(&r, launched(&r, function, grid, block, shared, stream, params, extra, 0));
}

hipError_t hipModuleLaunchCooperativeKernel(Handle *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                            unsigned by, unsigned bz, unsigned shared, void *stream, void **params) {
    CALL("hipModuleLaunchCooperativeKernel");
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return end(&r, launched(&r, function, grid, block, shared, stream, params, NULL, 1));
}

typedef struct { unsigned id, pad; unsigned value[16]; } LaunchAttribute;
typedef struct {
    unsigned grid[3], block[3], shared;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned count;
} LaunchConfig;

hipError_t hipDrvLaunchKernelEx(const LaunchConfig *config, Handle *function, void **params, void **extra) {
    CALL("hipDrvLaunchKernelEx");
    int cooperative = 0;
    unsigned cluster = 1;
    put(&r, ", \"attributes\": {");
    for (unsigned i = 0; i < config->count; i++) {
        const LaunchAttribute *a = &config->attributes[i];
        if (i) put(&r, ", ");
        if (a->id == 4) { /* hipLaunchAttributeClusterDimension */
            put(&r, "\"cluster\": [%u, %u, %u]", a->value[0], a->value[1], a->value[2]);
            cluster = a->value[0] * a->value[1] * a->value[2];
        } else if (a->id == 2) { /* hipLaunchAttributeCooperative */
            put(&r, "\"cooperative\": %u", a->value[0]);
            cooperative = a->value[0];
        } else {
            put(&r, "\"%u\": null}", a->id);
            return end(&r, INVALID_VALUE);
        }
    }
    put(&r, "}");
    REFUSE_IF(cluster > 1 && strncmp(devices[device].arch, "gfx125", 6), NOT_SUPPORTED);
    REFUSE_IF(!cluster || config->grid[0] % cluster, INVALID_CONFIGURATION);
    return end(&r, launched(&r, function, config->grid, config->block, config->shared, config->stream, params, extra,
                            cooperative));
}

hipError_t hipStreamCreate(void **stream) {
    CALL("hipStreamCreate");
    *stream = remember('s', NULL);
    address(&r, "stream", *stream);
    return end(&r, SUCCESS);
}

hipError_t hipStreamSynchronize(void *stream) {
    CALL("hipStreamSynchronize");
    address(&r, "stream", stream);
    return end(&r, stream_status(stream));
}

hipError_t hipEventCreateWithFlags(void **event, unsigned flags) {
    CALL("hipEventCreateWithFlags");
    number(&r, "flags", flags);
    *event = remember('e', NULL);
    address(&r, "event", *event);
    return end(&r, SUCCESS);
}

hipError_t hipEventRecord(void *event, void *stream) {
    CALL("hipEventRecord");
    address(&r, "event", event);
    address(&r, "stream", stream);
    REFUSE_IF(!known(event, 'e'), INVALID_HANDLE);
    return end(&r, stream_status(stream));
}

hipError_t hipStreamWaitEvent(void *stream, void *event, unsigned flags) {
    CALL("hipStreamWaitEvent");
    address(&r, "event", event);
    address(&r, "stream", stream);
    number(&r, "flags", flags);
    REFUSE_IF(!known(event, 'e'), INVALID_HANDLE);
    return end(&r, stream_status(stream));
}

hipError_t hipEventSynchronize(void *event) {
    CALL("hipEventSynchronize");
    address(&r, "event", event);
    return end(&r, known(event, 'e') ? SUCCESS : INVALID_HANDLE);
}

/* The n-th question is answered with n / 8 ms, so that medians can be told. */
hipError_t hipEventElapsedTime(float *milliseconds, void *start, void *stop) {
    static int asked;
    CALL("hipEventElapsedTime");
    REFUSE_IF(!known(start, 'e') || !known(stop, 'e'), INVALID_HANDLE);
    *milliseconds = ++asked / 8.0f;
    return end(&r, SUCCESS);
}

hipError_t hipEventDestroy(void *event) {
    CALL("hipEventDestroy");
    address(&r, "event", event);
    return end(&r, forget(event, 'e') ? SUCCESS : INVALID_HANDLE);
}

hipError_t hipMalloc(void **out, size_t size) {
    CALL("hipMalloc");
    number(&r, "size", size);
    REFUSE_IF(size > (size_t)1 << 40, OUT_OF_MEMORY);
    *out = track(size, NULL);
    address(&r, "address", *out);
    return end(&r, SUCCESS);
}

hipError_t hipFree(void *at) {
    CALL("hipFree");
    address(&r, "address", at);
    return end(&r, release(at) ? SUCCESS : INVALID_VALUE);
}

hipError_t hipHostRegister(void *at, size_t size, unsigned flags) {
    CALL("hipHostRegister");
    address(&r, "address", at);
    number(&r, "size", size);
    number(&r, "flags", flags);
    track(size, at);
    return end(&r, SUCCESS);
}

typedef struct { int type, handles, location_type, location_id; } PoolProperties; /* the beginning of hipMemPoolProps */

hipError_t hipMemPoolCreate(void **pool, const PoolProperties *wanted) {
    CALL("hipMemPoolCreate");
    number(&r, "type", wanted->type);
    number(&r, "location_type", wanted->location_type);
    number(&r, "location", wanted->location_id);
    *pool = remember('p', NULL);
    address(&r, "pool", *pool);
    return end(&r, SUCCESS);
}

hipError_t hipMemPoolSetAttribute(void *pool, int attribute, const uint64_t *value) {
    CALL("hipMemPoolSetAttribute");
    number(&r, "attribute", attribute);
    put(&r, ", \"value\": %llu", (unsigned long long)*value);
    return end(&r, known(pool, 'p') ? SUCCESS : INVALID_HANDLE);
}

hipError_t hipMemPoolDestroy(void *pool) {
    CALL("hipMemPoolDestroy");
    return end(&r, forget(pool, 'p') ? SUCCESS : INVALID_HANDLE);
}

hipError_t hipMallocFromPoolAsync(void **out, size_t size, void *pool, void *stream) {
    CALL("hipMallocFromPoolAsync");
    number(&r, "size", size);
    address(&r, "stream", stream);
    REFUSE_IF(!known(pool, 'p'), INVALID_HANDLE);
    *out = track(size, NULL);
    address(&r, "address", *out);
    return end(&r, stream_status(stream));
}

hipError_t hipMallocAsync(void **out, size_t size, void *stream) {
    CALL("hipMallocAsync");
    number(&r, "size", size);
    address(&r, "stream", stream);
    *out = track(size, NULL);
    address(&r, "address", *out);
    return end(&r, stream_status(stream));
}

hipError_t hipFreeAsync(void *at, void *stream) {
    CALL("hipFreeAsync");
    address(&r, "address", at);
    address(&r, "stream", stream);
    REFUSE_IF(!release(at), INVALID_VALUE);
    return end(&r, stream_status(stream));
}

hipError_t hipMemsetD8Async(void *at, unsigned char value, size_t count, void *stream) {
    CALL("hipMemsetD8Async");
    address(&r, "address", at);
    number(&r, "value", value);
    number(&r, "count", count);
    address(&r, "stream", stream);
    REFUSE_IF(!find(at), INVALID_VALUE);
    memset(at, value, count);
    return end(&r, stream_status(stream));
}

hipError_t hipMemcpyDtoDAsync(void *to, void *from, size_t size, void *stream) {
    CALL("hipMemcpyDtoDAsync");
    number(&r, "size", size);
    address(&r, "stream", stream);
    REFUSE_IF(!find(to) || !find(from), INVALID_VALUE);
    memmove(to, from, size);
    return end(&r, stream_status(stream));
}

hipError_t hipMemcpyHtoDAsync(void *to, const void *from, size_t size, void *stream) {
    CALL("hipMemcpyHtoDAsync");
    address(&r, "address", to);
    bytes(&r, "bytes", from, size < 64 ? size : 64);
    address(&r, "stream", stream);
    REFUSE_IF(!find(to), INVALID_VALUE);
    memcpy(to, from, size);
    return end(&r, stream_status(stream));
}

hipError_t hipMemcpyDtoHAsync(void *to, const void *from, size_t size, void *stream) {
    CALL("hipMemcpyDtoHAsync");
    address(&r, "address", from);
    number(&r, "size", size);
    address(&r, "stream", stream);
    REFUSE_IF(!find(from), INVALID_VALUE);
    memcpy(to, from, size);
    return end(&r, stream_status(stream));
}

hipError_t hipPointerGetAttribute(void *out, int attribute, const void *pointer) {
    CALL("hipPointerGetAttribute");
    address(&r, "address", pointer);
    number(&r, "attribute", attribute);
    const Block *b = find(pointer);
    REFUSE_IF(!b, INVALID_VALUE);
    if (attribute == 2) *(int *)out = b->kind;         /* HIP_POINTER_ATTRIBUTE_MEMORY_TYPE */
    else if (attribute == 9) *(int *)out = b->device;  /* HIP_POINTER_ATTRIBUTE_DEVICE_ORDINAL */
    else return end(&r, INVALID_VALUE);
    return end(&r, SUCCESS);
}

hipError_t hipDrvPointerGetAttributes(unsigned count, const int *attributes, void **values, const void *pointer) {
    CALL("hipDrvPointerGetAttributes");
    address(&r, "address", pointer);
    const Block *b = find(pointer);
    for (unsigned i = 0; i < count; i++) /* memory that is not known has type 0, as with cuPointerGetAttributes */
        if (attributes[i] == 2) *(int *)values[i] = b ? b->kind : UNREGISTERED;
        else if (attributes[i] == 9) *(int *)values[i] = b ? b->device : -1;
        else return end(&r, INVALID_VALUE);
    return end(&r, SUCCESS);
}

hipError_t hipGetLastError(void) {
    hipError_t found = last_error;
    last_error = SUCCESS;
    return found;
}

const char *hipGetErrorName(hipError_t status) { return status ? "hipErrorFake" : "hipSuccess"; }
const char *hipGetErrorString(hipError_t status) { return status == 209 ? "no kernel image is available for execution on the device" : "in the words of the fake runtime"; }
