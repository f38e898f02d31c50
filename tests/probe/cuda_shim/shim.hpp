// Runs CUDA kernels on the CPU: a fiber per thread, one block after another. __syncthreads and shuffles switch fibers.
//
// What it finds: wrong indices and arithmetic, barriers that not every thread reaches, reads of shared memory before it
// is written (it is filled with NaN), writes behind it, and, as fibers run from barrier to barrier in either order,
// missing barriers. What it cannot find: races inside a warp's step, and anything about speed.
#pragma once
#define GROBUST_SHIM
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static
#define MINUS_INFINITY (-INFINITY)
#define SHARED_ROOM(name) unsigned char* name = shim::room

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

struct Fiber {
    ucontext_t context;
    jmp_buf at;
    std::vector<char> stack;
    Index index;
    bool started = false, done = false;
};

struct Barrier {
    int arrived = 0, finished = 0;
    long generation = 0;
};

static unsigned char* room;
static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static std::vector<unsigned char> exchange;  // 8 bytes per thread
static Barrier block;
static int current, finished, error;
static long progress;
static jmp_buf scheduler;
static void (*body)(void*);
static void* argument;

enum { OK, DIVERGED, DEADLOCK, OVERRUN };

inline void yield() {
    if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
    threadIdx = fibers[current].index;
}

inline void wait(Barrier& barrier, int members) {
    if (barrier.finished) error = DIVERGED;
    long generation = barrier.generation;
    if (++barrier.arrived == members) {
        barrier.arrived = 0;
        barrier.generation++;
        progress++;
        return;
    }
    while (barrier.generation == generation && !error) yield();
}

// A fiber serves one thread of every block, one block after another.
inline void entry() {
    for (;;) {
        threadIdx = fibers[current].index;
        if (!error) body(argument);
        fibers[current].done = true;
        finished++;
        progress++;
        for (Barrier* barrier : {&block, &warps[current / 32]}) {
            barrier->finished++;
            if (barrier->arrived > 0) error = DIVERGED;
        }
        if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
    }
}

template <class T>
T shuffle(T value, int source) {
    int warp = current / 32;
    memcpy(&exchange[8 * current], &value, sizeof(T));
    wait(warps[warp], 32);
    T result;
    memcpy(&result, &exchange[8 * (32 * warp + source)], sizeof(T));
    wait(warps[warp], 32);
    return result;
}

inline void run_block(int threads, bool backwards) {
    block = Barrier();
    warps.assign((threads + 31) / 32, Barrier());
    exchange.assign(8 * threads, 0);
    finished = 0;
    for (int t = 0; t < threads; t++) {
        Fiber& fiber = fibers[t];
        fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
        fiber.done = false;
    }
    while (finished < threads) {
        long before = progress;
        for (volatile int step = 0; step < threads; step = step + 1) {
            current = backwards ? threads - 1 - step : step;
            Fiber& fiber = fibers[current];
            if (fiber.done) continue;
            if (_setjmp(scheduler) != 0) continue;
            if (fiber.started) _longjmp(fiber.at, 1);
            fiber.started = true;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, (void (*)())entry, 0);
            setcontext(&fiber.context);
        }
        if (progress == before && !error) error = DEADLOCK;
    }
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(typename std::remove_reference<A>::type*)arguments[I]...);
}

template <class... A>
struct Call {
    void (*kernel)(A...);
    void** arguments;
};

// grid and threads: x, y, z. 0, or what went wrong.
template <class... A>
int launch(void (*kernel)(A...), const unsigned* grid, const unsigned* threads, int shared, int backwards, void** arguments) {
    const int guard = 64;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    int count = threads[0] * threads[1] * threads[2];
    if ((int)fibers.size() < count) fibers = std::vector<Fiber>(count);
    for (int t = 0; t < count; t++)
        if (fibers[t].stack.empty()) fibers[t].stack.resize(1 << 16);
    std::vector<unsigned char> memory(shared + guard + 16);
    room = memory.data() + (16 - (size_t)memory.data() % 16) % 16;
    Call<A...> all = {kernel, arguments};
    argument = &all;
    body = [](void* given) {
        Call<A...>* all = (Call<A...>*)given;
        call(all->kernel, all->arguments, std::index_sequence_for<A...>());
    };
    error = OK;
    unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned place = 0; place < blocks && !error; place++) {
        unsigned b = backwards ? blocks - 1 - place : place;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / (grid[0] * grid[1])};
        memset(room, 0xff, shared);
        memset(room + shared, 0xa5, guard);
        run_block(count, backwards);
        for (int i = 0; i < guard; i++)
            if (room[shared + i] != 0xa5) error = OVERRUN;
    }
    return error;
}

}  // namespace shim

#define KERNEL(name)                                                                                             \
    extern "C" int run_##name(const unsigned* g, const unsigned* b, int shared, int backwards, void** arguments) { \
        return shim::launch(name, g, b, shared, backwards, arguments);                                           \
    }

inline void __syncthreads() { shim::wait(shim::block, blockDim.x * blockDim.y * blockDim.z); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::shuffle(value, (shim::current % 32) ^ mask);
}

template <class T>
T atomicAdd(T* address, T value) {
    T before = *address;
    *address += value;
    return before;
}

typedef unsigned short shim_half;

inline float half_to_float(shim_half bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                : exponent ? ldexpf((float)(1024 + mantissa), exponent - 25) : ldexpf((float)mantissa, -24);
    return bits >> 15 ? -value : value;
}

// Round to nearest, ties to even.
inline shim_half float_to_half(float value) {
    shim_half sign = signbit(value) ? 0x8000 : 0;
    float size = fabsf(value);
    if (isnan(value)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent = 0;
    frexpf(size, &exponent);
    exponent = exponent - 11 < -24 ? -24 : exponent - 11;
    int mantissa = (int)nearbyintf(ldexpf(size, -exponent));
    if (mantissa == 2048) {
        mantissa = 1024;
        exponent++;
    }
    return sign | (mantissa < 1024 ? mantissa : (exponent + 25) << 10 | (mantissa - 1024));
}
