// Stands in for libcuda, libcublas and libnvrtc on a machine without a GPU: device memory is memory, a kernel is
// compiled by g++ with kernel.h, and everything is done at once, but for copies from pinned memory: these are done as late as may
// be, so that whoever writes that memory too early shows. Fresh memory is filled with NaN, so that a read of what was never
// written shows.
#include <dlfcn.h>
#include <unistd.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

typedef int Result;
typedef uint64_t Ptr;
typedef void *Handle;
#define API extern "C" __attribute__((visibility("default")))

API Result cuInit(unsigned) { return 0; }
API Result cuDriverGetVersion(int *v) { *v = 13000; return 0; }
// What is emulated has one memory and one set of fibers, whichever device a thread works with.
static std::mutex one_at_a_time;
typedef std::lock_guard<std::mutex> Alone;

// As many devices as EMULATOR_DEVICES says, all in the same memory; one unless it says something.
static int devices() {
    const char *said = getenv("EMULATOR_DEVICES");
    return said ? atoi(said) : 1;
}
API Result cuDeviceGet(int *d, int ordinal) { *d = ordinal; return ordinal < devices() ? 0 : 101; }
API Result cuDeviceGetCount(int *n) { *n = devices(); return 0; }
API Result cuDeviceGetName(char *name, int n, int) { snprintf(name, n, "emulator"); return 0; }
API Result cuDeviceTotalMem_v2(size_t *n, int) { *n = 1ull << 30; return 0; }
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 115 ? 1 : 0; // compute capability 9.0, memory pools
    return 0;
}
API Result cuDeviceGetDefaultMemPool(Handle *pool, int) { *pool = (Handle)6; return 0; }
API Result cuMemPoolSetAttribute(Handle, int, void *) { return 0; }
API Result cuMemPoolGetAttribute(Handle, int, uint64_t *value) { *value = 0; return 0; }
API Result cuDevicePrimaryCtxRetain(Handle *c, int) { *c = (Handle)1; return 0; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API Result cuCtxSetCurrent(Handle) { return 0; }
API Result cuCtxGetCurrent(Handle *c) { *c = (Handle)1; return 0; }
API Result cuCtxSynchronize() { return 0; }
// A stream is what it has yet to copy; events know how far theirs was. The stream without a name does all at once.
struct Copy {
    void *to;
    const void *from;
    size_t n;
};
struct Stream {
    std::deque<Copy> late;
    uint64_t done = 0;
};
struct Event {
    Stream *stream = nullptr;
    uint64_t until = 0;
};
static void copy_until(Stream *s, uint64_t until) {
    Alone alone(one_at_a_time);
    for (; s && s->done < until && !s->late.empty(); s->done++) {
        Copy copy = s->late.front();
        memcpy(copy.to, copy.from, copy.n);
        s->late.pop_front();
    }
}
static void copy_all(Handle s) { copy_until((Stream *)s, UINT64_MAX); }
API Result cuStreamCreate(Handle *s, unsigned) { *s = new Stream; return 0; }
API Result cuStreamDestroy_v2(Handle s) { copy_all(s); return 0; }
API Result cuStreamWaitEvent(Handle, Handle e, unsigned) { copy_until(((Event *)e)->stream, ((Event *)e)->until); return 0; }
// While a stream is recorded, launches, products and fillings of memory are kept for later; memory may not be asked for, nor anything waited for.
typedef std::vector<std::function<void()>> Graph;
static thread_local Graph *recorded; // by whoever began it
API Result cuStreamBeginCapture_v2(Handle, int) { recorded = new Graph; return 0; }
API Result cuStreamEndCapture(Handle, Graph **g) { *g = recorded; recorded = nullptr; return 0; }
API Result cuGraphInstantiateWithFlags(Graph **exec, Graph *g, unsigned long long) { *exec = new Graph(*g); return 0; }
API Result cuGraphLaunch(Graph *exec, Handle s) {
    copy_all(s);
    Alone alone(one_at_a_time);
    for (auto &launch : *exec) launch();
    return 0;
}
API Result cuGraphExecDestroy(Graph *exec) { delete exec; return 0; }
API Result cuGraphDestroy(Graph *g) { delete g; return 0; }
API Result cuStreamSynchronize(Handle s) { if (recorded) return 900; copy_all(s); return 0; }
API Result cuStreamIsCapturing(Handle, int *s) { *s = recorded ? 1 : 0; return 0; }
API Result cuEventCreate(Handle *e, unsigned) { *e = new Event; return 0; }
API Result cuEventRecord(Handle e, Handle s) {
    Stream *stream = (Stream *)s;
    *(Event *)e = {stream, stream ? stream->done + stream->late.size() : 0};
    return 0;
}
API Result cuEventSynchronize(Handle e) {
    if (recorded) return 900;
    copy_until(((Event *)e)->stream, ((Event *)e)->until);
    return 0;
}
API Result cuEventQuery(Handle) { return 0; }
API Result cuEventDestroy_v2(Handle e) { delete (Event *)e; return 0; }
API Result cuGetErrorName(int, const char **s) { *s = "EMULATOR"; return 0; }
API Result cuGetErrorString(int, const char **s) { *s = "the emulator"; return 0; }

static size_t used, limit = getenv("EMULATOR_MEMORY") ? strtoull(getenv("EMULATOR_MEMORY"), 0, 10)  : 1ull << 30;
static Result allocate(Ptr *p, size_t n) {
    if (recorded) return 900; // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    Alone alone(one_at_a_time);
    if (used + n > limit) return 2; // CUDA_ERROR_OUT_OF_MEMORY
    size_t *memory = (size_t *)aligned_alloc(256, (n + 511) / 256 * 256 + 256);
    *memory = n;
    used += n;
    memset((char *)memory + 256, 0xff, n);
    *p = (Ptr)memory + 256;
    return 0;
}
static Result release(Ptr p) {
    Alone alone(one_at_a_time);
    size_t *memory = (size_t *)(p - 256);
    used -= *memory;
    memset((char *)memory + 256, 0xff, *memory);
    free(memory);
    return 0;
}
API Result cuMemGetInfo_v2(size_t *free, size_t *all) {
    *all = limit;
    *free = limit > used ? limit - used : 0;
    return 0;
}
API Result cuMemAllocAsync(Ptr *p, size_t n, Handle) { return allocate(p, n); }
API Result cuMemAlloc_v2(Ptr *p, size_t n) { return allocate(p, n); }
API Result cuMemFreeAsync(Ptr p, Handle s) { copy_all(s); return release(p); }
API Result cuMemFree_v2(Ptr p) { return release(p); }
static std::map<const char *, size_t> pinned;
API Result cuMemHostAlloc(void **p, size_t n, unsigned) {
    Alone alone(one_at_a_time);
    *p = malloc(n);
    pinned[(const char *)*p] = n;
    return 0;
}
API Result cuMemFreeHost(void *p) {
    Alone alone(one_at_a_time);
    pinned.erase((const char *)p);
    free(p);
    return 0;
}
static bool is_pinned(const void *from) {
    Alone alone(one_at_a_time);
    auto after = pinned.upper_bound((const char *)from);
    return after != pinned.begin() && (--after, (const char *)from < after->first + after->second);
}
API Result cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t n, Handle s) {
    if (recorded) return 900;
    if (s && is_pinned(from)) ((Stream *)s)->late.push_back({(void *)to, from, n});
    else copy_all(s), memcpy((void *)to, from, n);
    return 0;
}
API Result cuMemcpyHtoD_v2(Ptr to, const void *from, size_t n) { memcpy((void *)to, from, n); return 0; }
API Result cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t n, Handle s) { if (recorded) return 900; copy_all(s); memcpy(to, (void *)from, n); return 0; }
API Result cuMemcpyDtoH_v2(void *to, Ptr from, size_t n) { memcpy(to, (void *)from, n); return 0; }
API Result cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t n, Handle s) { if (recorded) return 900; copy_all(s); memmove((void *)to, (void *)from, n); return 0; }
API Result cuMemsetD8Async(Ptr p, unsigned char value, size_t n, Handle s) {
    if (recorded) recorded->push_back([=] { memset((void *)p, value, n); });
    else copy_all(s), memset((void *)p, value, n);
    return 0;
}

struct Function {
    void (*call)(void **);
    void **(*keep)(void **);
    void (*launch)(void (*)(void **), unsigned, unsigned, unsigned, void **);
};
API Result cuModuleLoadData(Handle *module, const void *image) {
    *module = dlopen((const char *)image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) std::cerr << "emulator: " << dlerror() << "\n";
    return *module ? 0 : 200;
}
API Result cuModuleUnload(Handle) { return 0; }
API Result cuModuleGetFunction(Handle *f, Handle module, const char *name) {
    Function *function = new Function;
    *(void **)&function->call = dlsym(module, (std::string("call_") + name).c_str());
    *(void **)&function->keep = dlsym(module, (std::string("keep_") + name).c_str());
    *(void **)&function->launch = dlsym(module, "emulator_launch");
    *f = function;
    return function->call ? 0 : 500;
}
API Result cuLaunchKernel(Handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                          Handle s, void **args, void **) {
    if (!gx || !gy || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1) return 1;
    Function *function = (Function *)f;
    if (recorded) {
        void **kept = function->keep(args);
        recorded->push_back([=] { function->launch(function->call, gx, gy, bx, kept); });
    } else {
        copy_all(s);
        Alone alone(one_at_a_time);
        function->launch(function->call, gx, gy, bx, args);
    }
    return 0;
}

// A program is compiled to a shared library, whose path takes the place of machine code.
struct Program {
    std::string source, log, library;
};
API Result nvrtcCreateProgram(Program **p, const char *source, const char *, int, const char **, const char **) {
    *p = new Program{source, "", ""};
    return 0;
}
API Result nvrtcCompileProgram(Program *p, int count, const char **options) {
    std::string flags;
    for (int i = 0; i < count; i++)
        if (!strncmp(options[i], "-D", 2)) flags += std::string(" ") + options[i];
    char dir[] = "/tmp/emulatorXXXXXX";
    if (!mkdtemp(dir)) return 6;
    std::string base = std::string(dir) + "/kernels";
    std::ofstream file(base + ".cpp");
    file << p->source << "\n";
    std::regex kernel("__global__ void(?:\\s+__launch_bounds__\\(\\d+\\))?\\s+(\\w+)\\(");
    for (std::sregex_iterator i(p->source.begin(), p->source.end(), kernel), end; i != end; ++i) {
        std::string name = (*i)[1];
        const char *only_if = name.find("tensor") != std::string::npos ? "TENSOR_CORES" : name.find("_mma") != std::string::npos ? "MMA" : "1";
        file << "#if " << only_if << "\n";
        file << "extern \"C\" void call_" << name << "(void **args) { call(" << name << ", args); }\n";
        file << "extern \"C\" void **keep_" << name << "(void **args) { return keep(" << name << ", args); }\n";
        file << "#endif\n";
    }
    file.close();
    const char *home = getenv("EMULATOR_HOME");
    p->library = base + ".so";
    std::string command = std::string("g++ -std=c++17 -O2 -march=native -ffp-contract=off -w -shared -fPIC -include ") +
                          (home ? home : ".") + "/kernel.h" + flags + " -o " + p->library + " " + base + ".cpp 2>" + base + ".log";
    int status = system(command.c_str());
    std::stringstream log;
    log << std::ifstream(base + ".log").rdbuf();
    p->log = log.str();
    return status ? 6 : 0;
}
API Result nvrtcGetProgramLogSize(Program *p, size_t *n) { *n = p->log.size() + 1; return 0; }
API Result nvrtcGetProgramLog(Program *p, char *to) { strcpy(to, p->log.c_str()); return 0; }
API Result nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return 0; }
API Result nvrtcGetCUBINSize(Program *p, size_t *n) { *n = p->library.size() + 1; return 0; }
API Result nvrtcGetCUBIN(Program *p, char *to) { strcpy(to, p->library.c_str()); return 0; }
API Result nvrtcGetPTXSize(Program *p, size_t *n) { *n = p->library.size() + 1; return 0; }
API Result nvrtcGetPTX(Program *p, char *to) { strcpy(to, p->library.c_str()); return 0; }
API Result nvrtcDestroyProgram(Program **p) { delete *p; return 0; }
API const char *nvrtcGetErrorString(int) { return "the emulator could not compile"; }

API Result cublasCreate_v2(Handle **h) { *h = new Handle(nullptr); return 0; } // which stream it computes on
API Result cublasDestroy_v2(Handle *h) { delete h; return 0; }
API Result cublasSetStream_v2(Handle *h, Handle s) { *h = s; return 0; }
static float number(const void *from, int type, size_t i) { // cudaDataType: 0 f32, 2 f16, 14 bf16
    if (type == 0) return ((const float *)from)[i];
    uint16_t bits = ((const uint16_t *)from)[i];
    if (type == 2) { _Float16 x; memcpy(&x, &bits, 2); return (float)x; }
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}
static void put(void *to, int type, size_t i, float x) {
    if (type == 0) { ((float *)to)[i] = x; return; }
    uint16_t bits;
    if (type == 2) { _Float16 y = (_Float16)x; memcpy(&bits, &y, 2); }
    else {
        uint32_t wide;
        memcpy(&wide, &x, 4);
        bits = (wide & 0x7fffffff) > 0x7f800000 ? (uint16_t)(wide >> 16 | 0x40) : (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
    }
    ((uint16_t *)to)[i] = bits;
}
static void product(int m, int n, int k, float scale, const void *a, int at, const void *b, int bt, float keep, void *c, int ct) {
    std::vector<float> weights((size_t)m * k), row(k);
    for (size_t i = 0; i < weights.size(); i++) weights[i] = number(a, at, i);
    for (int j = 0; j < n; j++) {
        for (int l = 0; l < k; l++) row[l] = number(b, bt, (size_t)j * k + l);
        for (int i = 0; i < m; i++) {
            float sum = 0.0f;
            for (int l = 0; l < k; l++) sum += weights[(size_t)i * k + l] * row[l];
            size_t at_c = (size_t)j * m + i;
            put(c, ct, at_c, scale * sum + (keep ? keep * number(c, ct, at_c) : 0.0f));
        }
    }
}
API Result cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
                        const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int, int) {
    if (ta != 1 || tb != 0 || lda != k || ldb != k || ldc != m) return 7;
    float scale = *(const float *)alpha, keep = *(const float *)beta;
    if (recorded) recorded->push_back([=] { product(m, n, k, scale, a, at, b, bt, keep, c, ct); });
    else copy_all(*h), product(m, n, k, scale, a, at, b, bt, keep, c, ct);
    return 0;
}
API Result cublasSetMathMode(Handle, int) { return 0; }
API Result cublasSetWorkspace_v2(Handle, void *, size_t) { return 0; }
