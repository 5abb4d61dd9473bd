/* Stands in for the CUDA driver's library on a machine without a GPU, so that NVRTC compiles every kernel that a run
 * launches and the driver's own demands are held to: a context where one is needed, grids and shared memory within a
 * card's limits, memory that is there. Memory is the host's and copies are made; kernels do nothing, so results are
 * whatever lay in memory. docs/checks.md has the commands.
 *
 * The environment says what the card is: STAND_IN_BYTES of memory (24 GiB), of which what is beyond STAND_IN_REFUSES
 * is refused though it is said to be free, of compute capability STAND_IN_CAPABILITY (90 for 9.0). At its end a
 * process says what it did, where it loaded modules; with STAND_IN_KERNELS also how often it launched which kernel.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
typedef uint64_t Pointer;

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
};

/* A card of the H200's kind. */
enum {
    THREADS_OF_A_BLOCK = 1024,
    BLOCK_Z = 64,
    GRID_YZ = 65535,
    SHARED_BYTES = 232448,
    PROCESSORS = 132,
};

static _Thread_local void *context;
static atomic_size_t used, most, modules, launches;

/* A kernel. */
typedef struct Function {
    char *name;
    size_t launches;
    struct Function *next;
} Function;

static Function *functions;

static size_t setting(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static size_t total(void) { return setting("STAND_IN_BYTES", (size_t)24 << 30); }

static Result wrong(const char *what, Result result) {
    fprintf(stderr, "stand-in: %s\n", what);
    return result;
}

#define NEEDS_CONTEXT \
    if (!context) return wrong(__func__, INVALID_CONTEXT)

__attribute__((destructor)) static void report(void) {
    if (modules)
        fprintf(stderr, "stand-in: %zu modules, %zu launches, %.2f GiB of device memory at most\n", (size_t)modules,
                (size_t)launches, (double)most / (1 << 30));
    if (getenv("STAND_IN_KERNELS"))
        for (Function *function = functions; function; function = function->next)
            fprintf(stderr, "stand-in: %9zu launches of %s\n", function->launches, function->name);
}

/* Devices */

Result cuInit(unsigned flags) { return SUCCESS; }

Result cuDriverGetVersion(int *version) {
    *version = (int)setting("STAND_IN_VERSION", 13020);
    return SUCCESS;
}

/* NVRTC asks, and does without. */
Result cuGetExportTable(const void **table, const void *id) {
    *table = NULL;
    return NOT_FOUND;
}

Result cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

Result cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

Result cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "stand-in");
    return SUCCESS;
}

Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = total();
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, 1, 16);
    return SUCCESS;
}

Result cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

Result cuDeviceCanAccessPeer(int *can, int a, int b) {
    *can = 0;
    return SUCCESS;
}

/* The numbers are CUdevice_attribute's. */
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = (int)setting("STAND_IN_CAPABILITY", 90);
    switch (attribute) {
    case 1: case 2: case 3: *value = THREADS_OF_A_BLOCK; break;
    case 4: *value = BLOCK_Z; break;
    case 5: *value = INT32_MAX; break;
    case 6: case 7: *value = GRID_YZ; break;
    case 8: *value = 48 << 10; break;
    case 10: *value = 32; break;
    case 16: *value = PROCESSORS; break;
    case 39: *value = 2048; break;
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 81: *value = SHARED_BYTES + 1024; break;
    case 97: *value = SHARED_BYTES; break;
    default: *value = 1;
    }
    return SUCCESS;
}

/* Contexts */

Result cuDevicePrimaryCtxRetain(void **retained, int device) {
    static char primary;
    *retained = &primary;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }

Result cuCtxSetCurrent(void *current) {
    context = current;
    return SUCCESS;
}

Result cuCtxGetCurrent(void **current) {
    *current = context;
    return SUCCESS;
}

Result cuCtxSynchronize(void) {
    NEEDS_CONTEXT;
    return SUCCESS;
}

/* Memory: the length is kept in a page before it. */

enum { PAGE = 4096 };

Result cuMemAlloc_v2(Pointer *pointer, size_t bytes) {
    NEEDS_CONTEXT;
    if (!bytes) return wrong("an allocation of nothing", INVALID_VALUE);
    if (used + bytes > setting("STAND_IN_REFUSES", total())) return OUT_OF_MEMORY;
    char *page = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (page == MAP_FAILED) return OUT_OF_MEMORY;
    *(size_t *)page = bytes;
    size_t now = (used += bytes);
    if (now > most) most = now;
    *pointer = (Pointer)(page + PAGE);
    return SUCCESS;
}

Result cuMemFree_v2(Pointer pointer) {
    NEEDS_CONTEXT;
    char *page = (char *)pointer - PAGE;
    size_t bytes = *(size_t *)page;
    used -= bytes;
    munmap(page, bytes + PAGE);
    return SUCCESS;
}

Result cuMemAllocAsync(Pointer *pointer, size_t bytes, void *stream) { return cuMemAlloc_v2(pointer, bytes); }
Result cuMemFreeAsync(Pointer pointer, void *stream) { return cuMemFree_v2(pointer); }

Result cuMemGetInfo_v2(size_t *unused, size_t *all) {
    NEEDS_CONTEXT;
    *all = total();
    *unused = *all - used;
    return SUCCESS;
}

Result cuMemAllocHost_v2(void **pointer, size_t bytes) {
    NEEDS_CONTEXT;
    *pointer = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

Result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) { return cuMemAllocHost_v2(pointer, bytes); }

Result cuMemFreeHost(void *pointer) {
    NEEDS_CONTEXT;
    free(pointer);
    return SUCCESS;
}

/* Copies, at once */

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    memcpy(to, (const void *)from, bytes);
    return SUCCESS;
}

/* CUDA_MEMCPY2D; a kind of 1 is the host's memory. */
struct Copy2D {
    size_t from_x, from_y;
    int from_kind;
    const char *from_host;
    Pointer from_device;
    void *from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    int to_kind;
    char *to_host;
    Pointer to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height;
};

Result cuMemcpy2DAsync_v2(const struct Copy2D *copy, void *stream) {
    NEEDS_CONTEXT;
    const char *from = copy->from_kind == 1 ? copy->from_host : (const char *)copy->from_device;
    char *to = copy->to_kind == 1 ? copy->to_host : (char *)copy->to_device;
    from += copy->from_y * copy->from_pitch + copy->from_x;
    to += copy->to_y * copy->to_pitch + copy->to_x;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(to + row * copy->to_pitch, from + row * copy->from_pitch, copy->width);
    return SUCCESS;
}

/* Streams and events: all is done when it is told. */

Result cuStreamCreate(void **stream, unsigned flags) {
    NEEDS_CONTEXT;
    *stream = malloc(1);
    return SUCCESS;
}

Result cuStreamDestroy_v2(void *stream) {
    free(stream);
    return SUCCESS;
}

Result cuStreamSynchronize(void *stream) { return SUCCESS; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return SUCCESS; }

Result cuEventCreate(void **event, unsigned flags) {
    NEEDS_CONTEXT;
    *event = malloc(1);
    return SUCCESS;
}

Result cuEventDestroy_v2(void *event) {
    free(event);
    return SUCCESS;
}

Result cuEventRecord(void *event, void *stream) { return SUCCESS; }
Result cuEventSynchronize(void *event) { return SUCCESS; }

/* Kernels: a module is its PTX, a function its name. */

Result cuModuleLoadData(void **module, const void *ptx) {
    NEEDS_CONTEXT;
    modules++;
    *module = strdup(ptx);
    return SUCCESS;
}

Result cuModuleUnload(void *module) {
    free(module);
    return SUCCESS;
}

Result cuModuleGetFunction(void **function, void *module, const char *name) {
    char entry[512];
    NEEDS_CONTEXT;
    snprintf(entry, sizeof entry, ".entry %s", name);
    if (!strstr(module, entry)) return wrong(name, NOT_FOUND);
    Function *made = malloc(sizeof *made);
    if (!made) return OUT_OF_MEMORY;
    made->name = strdup(name);
    made->launches = 0;
    made->next = functions;
    functions = made;
    *function = made;
    return SUCCESS;
}

Result cuFuncSetAttribute(void *function, int attribute, int value) {
    const int dynamic_shared_bytes = 8;
    NEEDS_CONTEXT;
    if (attribute == dynamic_shared_bytes && value > SHARED_BYTES) return wrong("too much shared memory", INVALID_VALUE);
    return SUCCESS;
}

Result cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                      unsigned z, unsigned shared, void *stream, void **arguments, void **extra) {
    NEEDS_CONTEXT;
    launches++;
    ((Function *)function)->launches++;
    int grid = grid_x > 0 && grid_y > 0 && grid_z > 0 && grid_y <= GRID_YZ && grid_z <= GRID_YZ;
    int block = x > 0 && y > 0 && z > 0 && z <= BLOCK_Z && (size_t)x * y * z <= THREADS_OF_A_BLOCK;
    if (!grid || !block || shared > SHARED_BYTES) return wrong(((Function *)function)->name, INVALID_VALUE);
    return SUCCESS;
}

Result cuTensorMapEncodeTiled(void *map, ...) {
    memset(map, 0, 128);
    return SUCCESS;
}

Result cuTensorMapEncodeIm2col(void *map, ...) {
    memset(map, 0, 128);
    return SUCCESS;
}

Result cuGetErrorName(int error, const char **name) {
    *name = "stand-in";
    return SUCCESS;
}

Result cuGetErrorString(int error, const char **text) {
    *text = "the stand-in for the driver refuses";
    return SUCCESS;
}
