// Rows of features before they meet a product: moments, widening, weighting.

// Sums over rows of weight * (x - shift) and weight * (x - shift)^2 of every feature, in float64: partials
// (2, d, blocks). Block (32, lanes up to 32): 32 features side by side. grid (d / 32, blocks).
extern "C" __global__ void column_moments(
    const void* features, int is_half, long long pitch, long long rows, int d, const double* shift,
    const double* weights, double* partials
) {
    __shared__ double room[2][32][33];
    int j = blockIdx.x * 32 + threadIdx.x, lanes = blockDim.y, blocks = gridDim.y;
    double first = 0, second = 0;
    if (j < d) {
        double centre = shift != 0 ? shift[j] : 0.0;
        for (long long i = (long long)blockIdx.y * lanes + threadIdx.y; i < rows; i += (long long)blocks * lanes) {
            double value = (double)element(features, is_half, i * pitch + j) - centre;
            double weighted = weights != 0 ? weights[i] * value : value;
            first += weighted;
            second += weighted * value;
        }
    }
    room[0][threadIdx.y][threadIdx.x] = first;
    room[1][threadIdx.y][threadIdx.x] = second;
    __syncthreads();
    if (threadIdx.y != 0 || j >= d) return;
    for (int lane = 1; lane < lanes; lane++) {
        first += room[0][lane][threadIdx.x];
        second += room[1][lane][threadIdx.x];
    }
    partials[(long long)j * blocks + blockIdx.y] = first;
    partials[((long long)d + j) * blocks + blockIdx.y] = second;
}

// out (rows, d) float32 = x - shift. grid (d / threads, blocks of rows).
extern "C" __global__ void centred(
    const void* features, int is_half, long long pitch, long long rows, int d, const float* shift, float* out
) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= d) return;
    for (long long i = blockIdx.y; i < rows; i += gridDim.y)
        out[i * d + j] = element(features, is_half, i * pitch + j) - shift[j];
}

// out (rows, d) = sqrt(weight * grow) * x, of the features' own width: the square root of a sum of outer products.
extern "C" __global__ void root_weighted(
    const void* features, int is_half, long long pitch, long long rows, int d, const double* weights,
    const double* grow, void* out
) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= d) return;
    for (long long i = blockIdx.y; i < rows; i += gridDim.y) {
        float value = (float)sqrt(weights[i] * grow[0]) * element(features, is_half, i * pitch + j);
        if (is_half) ((half_bits*)out)[i * d + j] = float_to_half(value);
        else ((float*)out)[i * d + j] = value;
    }
}

// high + low / LOW = ((x - coarse) - fine) * scale of the listed rows, as two float16: (count, d) each. grid (d / threads,
// blocks of rows).
extern "C" __global__ void split_rows(
    const void* features, int is_half, long long pitch, const long long* listed, long long count, int d,
    const float* coarse, const float* fine, const float* scale, half_bits* high, half_bits* low
) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= d) return;
    for (long long i = blockIdx.y; i < count; i += gridDim.y) {
        float value = (element(features, is_half, listed[i] * pitch + j) - coarse[j]) - fine[j];
        split_float(value * scale[j], high + i * d + j, low + i * d + j);
    }
}
