// CUDA C on a CPU, enough of it to run the kernels of crates/engine/src/cuda one block after the other: every thread of a block is a
// fiber, barriers and shuffles hand over to the next one. Slow, exact, and deaf to timing: it finds wrong indices, wrong
// layouts and missing barriers, not races between blocks. x86-64 only.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define EMULATED 1
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(n)

struct uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline float __expf(float x) { return expf(x); }

struct Dim { unsigned x, y, z; };
static Dim blockIdx, blockDim;

struct Barrier {
    int count = 0;
    unsigned generation = 0;
};

struct Fiber {
    void *stack = nullptr, *at = nullptr;
    Dim thread;
    bool over;
};

struct Warp {
    Barrier barrier;
    int alive;
    uint32_t slots[32];
    uint32_t a[32][4], b[32][2];
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Barrier block_barrier;
static int alive;
static Fiber *current;
static void *scheduler;
#define threadIdx (current->thread)

extern "C" void emulator_switch(void **from, void *to);
asm(".text\n.type emulator_switch,@function\nemulator_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");

static void yield() { emulator_switch(&current->at, scheduler); }

static void wait(Barrier &barrier, int &members) {
    unsigned generation = barrier.generation;
    barrier.count++;
    while (barrier.generation == generation) {
        if (barrier.count >= members) {
            barrier.count = 0;
            barrier.generation++;
        } else {
            yield();
        }
    }
}

static Warp &own_warp() { return warps[threadIdx.x / 32]; }
static void __syncthreads() { wait(block_barrier, alive); }
static void __syncwarp() { wait(own_warp().barrier, own_warp().alive); }

template <typename T> static T exchange(T value, unsigned from) {
    static_assert(sizeof(T) == 4, "");
    Warp &warp = own_warp();
    memcpy(&warp.slots[threadIdx.x % 32], &value, 4);
    __syncwarp();
    T got;
    memcpy(&got, &warp.slots[from], 4);
    __syncwarp();
    return got;
}
template <typename T> static T __shfl_xor_sync(unsigned, T value, int mask) { return exchange(value, threadIdx.x % 32 ^ mask); }
template <typename T> static T __shfl_sync(unsigned, T value, unsigned lane) { return exchange(value, lane); }

static unsigned __ballot_sync(unsigned, bool mine) {
    Warp &warp = own_warp();
    warp.slots[threadIdx.x % 32] = mine;
    __syncwarp();
    unsigned all = 0;
    for (int lane = 0; lane < 32; lane++) all |= warp.slots[lane] << lane;
    __syncwarp();
    return all;
}

// The fibers take turns.
static inline unsigned atomicAdd(unsigned *at, unsigned x) { unsigned before = *at; *at += x; return before; }
static inline unsigned atomicOr(unsigned *at, unsigned x) { unsigned before = *at; *at |= x; return before; }

static inline uint32_t float_bits(float x) { uint32_t y; memcpy(&y, &x, 4); return y; }
static inline float bits_float(uint32_t x) { float y; memcpy(&y, &x, 4); return y; }

#if ELEMENT == 2
static inline float to_float(uint16_t x) { _Float16 y; memcpy(&y, &x, 2); return (float)y; }
static inline uint16_t to_element(float x) { _Float16 y = (_Float16)x; uint16_t z; memcpy(&z, &y, 2); return z; }
static inline float widen_bits(uint32_t x) { return to_float((uint16_t)x); }
#else
static inline float widen_bits(uint32_t x) { return bits_float(x << 16); }
#endif

// mma.m16n8k16 by the fragment layout of the PTX manual: element (row, depth) of A is in register
// (row >= 8) + 2 * (depth >= 8) of lane 4 * (row % 8) + depth % 8 / 2; (depth, column) of B in register depth >= 8 of lane
// 4 * column + depth % 8 / 2; each register holds two, the even depth low.
static inline float fragment(uint32_t two, int depth) { return widen_bits(depth % 2 ? two >> 16 : two & 0xffff); }
static void multiply(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    Warp &warp = own_warp();
    int lane = threadIdx.x % 32;
    uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    memcpy(warp.a[lane], a, sizeof a);
    memcpy(warp.b[lane], b, sizeof b);
    __syncwarp();
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (int depth = 0; depth < 16; depth++) {
            uint32_t x = warp.a[4 * (row % 8) + depth % 8 / 2][(row >= 8) + 2 * (depth >= 8)];
            uint32_t y = warp.b[4 * column + depth % 8 / 2][depth >= 8];
            sum += fragment(x, depth) * fragment(y, depth);
        }
        c[i] = sum;
    }
    __syncwarp();
}

static void (*kernel_call)(void **);
static void **kernel_args;

static void fiber_main() {
    kernel_call(kernel_args);
    current->over = true;
    alive--;
    own_warp().alive--;
    yield();
    abort();
}

template <typename... A, size_t... I> static void call_with(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<A> *)args[I]...);
}
template <typename... A> static void call(void (*kernel)(A...), void **args) {
    call_with(kernel, args, std::index_sequence_for<A...>{});
}

// Copies of the arguments of a launch that is kept.
template <typename... A, size_t... I> static void **keep_with(void (*)(A...), void **args, std::index_sequence<I...>) {
    return new void *[sizeof...(A)]{(void *)new std::remove_const_t<A>(*(std::remove_const_t<A> *)args[I])...};
}
template <typename... A> static void **keep(void (*kernel)(A...), void **args) {
    return keep_with(kernel, args, std::index_sequence_for<A...>{});
}

extern "C" void emulator_launch(void (*kernel)(void **), unsigned grid_x, unsigned grid_y, unsigned threads, void **args) {
    const size_t STACK = 128 << 10;
    kernel_call = kernel;
    kernel_args = args;
    blockDim = {threads, 1, 1};
    while (fibers.size() < threads) {
        fibers.push_back({});
        fibers.back().stack = aligned_alloc(64, STACK);
    }
    for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            block_barrier = Barrier();
            alive = threads;
            warps.assign((threads + 31) / 32, Warp());
            for (unsigned t = 0; t < threads; t++) {
                Fiber &fiber = fibers[t];
                void **top = (void **)((char *)fiber.stack + STACK) - 1; // aligned as at a function's entry
                *--top = (void *)fiber_main;
                fiber.at = top - 6;
                fiber.thread = {t, 0, 0};
                fiber.over = false;
                warps[t / 32].alive++;
            }
            while (alive > 0)
                for (unsigned t = 0; t < threads; t++)
                    if (!fibers[t].over) {
                        current = &fibers[t];
                        emulator_switch(&scheduler, current->at);
                    }
        }
}
