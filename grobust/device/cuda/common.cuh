// What all kernels share. Sources are compiled by NVRTC without any include path: this file is put before each of them.
// The tests compile the same sources with g++ behind a shim that defines GROBUST_SHIM.

// The bits of a float16. NVRTC finds no cuda_fp16.h unless a toolkit is installed; two instructions need none.
typedef unsigned short half_bits;

#ifndef GROBUST_SHIM
#define SHARED_ROOM(name) extern __shared__ __align__(16) unsigned char name[]
#define MINUS_INFINITY __int_as_float(0xff800000)

__device__ inline float half_to_float(half_bits bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline half_bits float_to_half(float value) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

// Arrays that no other argument overlaps: loads need not wait for stores.
#define READ(type) const type* __restrict__
#define WRITE(type) type* __restrict__

// A float32 v is split into two float16: high = half(v), low = half((v - high) * LOW). Together they keep 22 bits.
#define LOW 2048.0f

__device__ inline void split_float(float value, half_bits* high, half_bits* low) {
    half_bits bits = float_to_half(value);
    *high = bits;
    *low = float_to_half((value - half_to_float(bits)) * LOW);
}

// An element of an array of float16 or float32.
__device__ inline float element(const void* array, int is_half, long long at) {
    return is_half ? half_to_float(((const half_bits*)array)[at]) : ((const float*)array)[at];
}

__device__ inline int thread_index() { return threadIdx.y * blockDim.x + threadIdx.x; }

__device__ inline int block_threads() { return blockDim.x * blockDim.y; }

__device__ inline double warp_sum(double value) {
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ inline float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// The sum over a block of whole warps, in a fixed order, for every thread. To be called by all threads.
__device__ inline double block_sum(double value) {
    __shared__ double parts[33];
    int thread = thread_index(), warps = block_threads() / 32;
    value = warp_sum(value);
    if (thread % 32 == 0) parts[thread / 32] = value;
    __syncthreads();
    if (thread < 32) {
        double total = warp_sum(thread < warps ? parts[thread] : 0.0);
        if (thread == 0) parts[32] = total;
    }
    __syncthreads();
    return parts[32];
}

// The largest of a block's values, for every thread; values are not negative.
__device__ inline double block_max(double value) {
    __shared__ double parts[33];
    int thread = thread_index(), warps = block_threads() / 32;
    for (int offset = 16; offset > 0; offset >>= 1) {
        double other = __shfl_xor_sync(0xffffffffu, value, offset);
        value = other > value ? other : value;
    }
    if (thread % 32 == 0) parts[thread / 32] = value;
    __syncthreads();
    if (thread == 0) {
        double largest = parts[0];
        for (int warp = 1; warp < warps; warp++) largest = parts[warp] > largest ? parts[warp] : largest;
        parts[32] = largest;
    }
    __syncthreads();
    return parts[32];
}
