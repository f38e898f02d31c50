// The small vectors of L-BFGS: (K, size) float64, a block per head.

// out (K) = sum over a head's columns (c) and the first `width` entries of a * b. Entries stand side by side; columns
// and heads at the pitches given.
extern "C" __global__ void dots(
    const double* a, long long a_head, long long a_column, const double* b, long long b_head, long long b_column,
    int columns, int width, double* out
) {
    int head = blockIdx.x;
    double total = 0;
    for (long long p = threadIdx.x; p < (long long)columns * width; p += blockDim.x) {
        long long c = p / width, j = p % width;
        total += a[head * a_head + c * a_column + j] * b[head * b_head + c * b_column + j];
    }
    total = block_sum(total);
    if (threadIdx.x == 0) out[head] = total;
}

__device__ inline double dot(const double* a, const double* b, long long size) {
    double total = 0;
    for (long long p = threadIdx.x; p < size; p += blockDim.x) total += a[p] * b[p];
    return block_sum(total);
}

// Inverse Hessian estimate times the gradient (Nocedal & Wright, algorithm 7.4), for every head. pointers: addresses of
// `pairs` steps, then of as many changes, preconditioned changes (K, size) each, and inverses (K), oldest first. q (K,
// size) is room; out (K, size) the result.
extern "C" __global__ void two_loop(
    const unsigned long long* pointers, int pairs, long long size, const double* gradient, const double* preconditioned,
    double* q, double* out
) {
    __shared__ double alphas[64];
    int head = blockIdx.x, thread = threadIdx.x, threads = blockDim.x;
    long long base = head * size;
    q += base;
    out += base;
    for (long long p = thread; p < size; p += threads) {
        q[p] = gradient[base + p];
        out[p] = preconditioned[base + p];
    }
    // A thread reads and writes the same entries throughout: only the dots need the block.
    for (int i = pairs - 1; i >= 0; i--) {
        const double* step = (const double*)pointers[i] + base;
        const double* change = (const double*)pointers[pairs + i] + base;
        const double* smoothed = (const double*)pointers[2 * pairs + i] + base;
        double alpha = ((const double*)pointers[3 * pairs + i])[head] * dot(step, q, size);
        if (thread == 0) alphas[i] = alpha;
        for (long long p = thread; p < size; p += threads) {
            q[p] -= alpha * change[p];
            out[p] -= alpha * smoothed[p];
        }
    }
    if (pairs > 0) {
        const double* step = (const double*)pointers[pairs - 1] + base;
        const double* change = (const double*)pointers[2 * pairs - 1] + base;
        const double* smoothed = (const double*)pointers[3 * pairs - 1] + base;
        double denominator = dot(change, smoothed, size), numerator = dot(step, change, size);
        bool known = ((const double*)pointers[4 * pairs - 1])[head] > 0 && denominator > 0;
        double scale = known ? numerator / denominator : 1.0;
        for (long long p = thread; p < size; p += threads) out[p] *= scale;
    }
    for (int i = 0; i < pairs; i++) {
        const double* step = (const double*)pointers[i] + base;
        const double* change = (const double*)pointers[pairs + i] + base;
        double beta = ((const double*)pointers[3 * pairs + i])[head] * dot(change, out, size);
        double weight = alphas[i] - beta;
        for (long long p = thread; p < size; p += threads) out[p] += weight * step[p];
    }
}

// out (K, d + 1 per column): products (K * c, R * d) float32 of gradients with R inverses side by side, each head's
// with its own (nearest); the intercepts' part is gradient / bias. grid (columns).
extern "C" __global__ void choose_product(
    const float* products, const double* gradient, const int* nearest, int references, int d, int columns, double bias,
    double* out
) {
    int column = blockIdx.x, of = nearest[column / columns];
    const float* from = products + ((long long)column * references + of) * d;
    long long at = (long long)column * (d + 1);
    for (int j = threadIdx.x; j < d; j += blockDim.x) out[at + j] = (double)from[j];
    if (threadIdx.x == 0) out[at + d] = gradient[at + d] / bias;
}
