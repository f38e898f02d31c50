// K heads trained on their minibatches for an epoch: a block per head takes one minibatch after another. A minibatch is
// gathered, standardized, multiplied and used while it is in shared memory (or, where it does not fit, in the L2 cache:
// then the pointers lead to global memory and nothing else changes). float32, as torch; losses in float64.

__device__ inline float* place(int shared, unsigned char* room, long long* used, float* elsewhere, long long size) {
    if (!shared) return elsewhere;
    float* found = (float*)(room + *used);
    *used += (size * 4 + 15) / 16 * 16;
    return found;
}

// Turn logits (c, batch) into weighted residuals; the loss of the rows of this thread. A row's class has minus the sum of
// the others' probabilities: 1 - p would be rounding where p is almost 1.
__device__ inline double residuals_of(
    float* residual, int columns, int batch, int size, const int* labels, const float* shares
) {
    double loss = 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        float w = shares[i];
        if (columns == 1) {
            float z = residual[i], sign = 1.0f - 2.0f * labels[i], other = sign * z;
            float small = expf(-fabsf(z)), inverse = 1.0f / (1.0f + small);
            residual[i] = (other >= 0 ? inverse : small * inverse) * sign * w;
            loss += (double)((log1pf(small) + fmaxf(other, 0.0f)) * w);
            continue;
        }
        float largest = residual[i], others = 0, target = 0;
        for (int c = 1; c < columns; c++) largest = fmaxf(largest, residual[c * batch + i]);
        for (int c = 0; c < columns; c++) {
            float shifted = residual[c * batch + i] - largest;
            float e = expf(shifted);
            if (c == labels[i]) target = shifted;
            else others += e;
            residual[c * batch + i] = e;
        }
        float own = expf(target), factor = w / (others + own);
        loss += (double)((log1pf(target < 0 ? others + own - 1.0f : others) - target) * w);
        for (int c = 0; c < columns; c++)
            residual[c * batch + i] = (c == labels[i] ? -others : residual[c * batch + i]) * factor;
    }
    return loss;
}

// w, first, second (K, c, d + 1) float32, the last column the intercepts, in and out. One column is a class's half of
// two opposite ones, so its logit is twice its product. rows, shares: the draws of all heads one after another, those of
// head k from draw_starts[k] on; its minibatches begin at offsets[batch_starts[k]] ... offsets[batch_starts[k + 1] - 1],
// counted from its first draw. beta1 is the momentum of SGD. A block's shared memory: labels and shares (batch), then
// what is placed there.
extern "C" __global__ void __launch_bounds__(512) minibatches(
    READ(void) features, int is_half, int d, int columns, int batch, READ(unsigned short) labels, READ(int) rows,
    READ(float) shares, READ(long long) draw_starts, READ(int) offsets, READ(int) batch_starts, READ(float) mean,
    READ(float) inverse, float* w, float* first, float* second, const long long* steps, int adam,
    const int* normalize, const double* rates, const double* decays, double beta1, double beta2, double epsilon,
    int shared_weights, int shared_tile, int shared_residual, float* tiles, float* residuals, double* losses
) {
    SHARED_ROOM(room);
    __shared__ float corrections[2];
    int head = blockIdx.x, thread = threadIdx.x, threads = blockDim.x, width = d + 1, size_w = columns * width;
    int lane = thread % 32, warp = thread / 32, warps = threads / 32;
    int* y = (int*)room;
    float* share = (float*)(y + batch);
    long long used = ((long long)batch * 8 + 15) / 16 * 16;
    long long size_r = (long long)columns * batch;
    float* residual = place(shared_residual, room, &used, residuals + head * size_r, size_r);
    float* weights = place(shared_weights, room, &used, w + (long long)head * size_w, size_w);
    float* tile = place(shared_tile, room, &used, tiles + (long long)head * batch * d, (long long)batch * d);
    float* m1 = first + (long long)head * size_w;
    float* m2 = second + (long long)head * size_w;
    const int* drawn = rows + draw_starts[head];
    const float* drawn_shares = shares + draw_starts[head];
    const int* begin = offsets + batch_starts[head];
    int batches = batch_starts[head + 1] - batch_starts[head] - 1;
    if (shared_weights)
        for (int p = thread; p < size_w; p += threads) weights[p] = w[(long long)head * size_w + p];
    float rate = (float)rates[head], decay = (float)decays[head], b1 = (float)beta1, b2 = (float)beta2;
    float shrink = (float)(1.0 - rates[head] * decays[head]), tiny = (float)epsilon;
    float slope = columns == 1 ? 2.0f : 1.0f;
    double loss = 0;
    for (int s = 0; s < batches; s++) {
        int from = begin[s], size = begin[s + 1] - from;
        __syncthreads();  // the update before has read the tile and written the weights
        for (int i = warp; i < size; i += warps) {
            int row = drawn[from + i];
            if (lane == 0) y[i] = labels[row];
            #pragma unroll 8
            for (int j = lane; j < d; j += 32)
                tile[(long long)i * d + j] =
                    (element(features, is_half, (long long)row * d + j) - mean[j]) * inverse[j];
        }
        double total = size;
        if (normalize[head]) {
            total = 0;
            for (int i = thread; i < size; i += threads) total += (double)drawn_shares[from + i];
            total = block_sum(total);
        }
        for (int i = thread; i < size; i += threads) share[i] = (float)((double)drawn_shares[from + i] / total);
        if (thread == 0 && adam) {
            double t = (double)(steps[head] + s + 1);
            corrections[0] = (float)(rates[head] / (1.0 - pow(beta1, t)));
            corrections[1] = (float)(1.0 / sqrt(1.0 - pow(beta2, t)));
        }
        __syncthreads();
        for (int p = warp; p < size * columns; p += warps) {
            int i = p / columns, c = p % columns;
            float z = 0;
            for (int j = lane; j < d; j += 32) z += weights[c * width + j] * tile[(long long)i * d + j];
            z = warp_sum(z);
            if (lane == 0) residual[c * batch + i] = slope * (z + weights[c * width + d]);
        }
        __syncthreads();
        loss += residuals_of(residual, columns, batch, size, y, share);
        __syncthreads();
        for (int p = thread; p < size_w; p += threads) {
            int c = p / width, j = p % width;
            float g = 0;
            for (int i = 0; i < size; i++)
                g += residual[c * batch + i] * (j < d ? tile[(long long)i * d + j] : 1.0f);
            if (adam) {
                float m = b1 * m1[p] + (1.0f - b1) * g, v = b2 * m2[p] + (1.0f - b2) * g * g;
                m1[p] = m;
                m2[p] = v;
                weights[p] = shrink * weights[p] - corrections[0] * m / (sqrtf(v) * corrections[1] + tiny);
            } else {
                float m = b1 * m1[p] + g + decay * weights[p];
                m1[p] = m;
                weights[p] -= rate * m;
            }
        }
    }
    __syncthreads();
    if (shared_weights)
        for (int p = thread; p < size_w; p += threads) w[(long long)head * size_w + p] = weights[p];
    loss = block_sum(loss);
    if (thread == 0) losses[head] = loss / (batches > 1 ? batches : 1);
}
