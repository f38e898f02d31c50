// The element-wise stage between the two products of a pass, for K heads: logits, losses, slopes, residuals.
//
// z and dz are (slots, c, ld) float32: the logits of each head and of its direction. Products come as (K, c, ldb), rows
// of the block side by side. Losses, slopes and sums of residuals are added up in float64: each block writes its part
// to partials (outputs, blocks), and `reduce` adds the parts in a fixed order: a result does not depend on luck.

struct Weights {
    const unsigned char* codes;  // (coded, n), here from the block's first row on
    const float* values;         // (coded, 256)
    const float* dense;          // (others, n), here from the block's first row on
    long long n;
    int coded;
};

__device__ inline float weight_of(const Weights& weights, int weighting, long long row) {
    if (weighting < weights.coded)
        return weights.values[weighting * 256 + weights.codes[weighting * weights.n + row]];
    return weights.dense[(weighting - weights.coded) * weights.n + row];
}

// The logit at the end of the step, and the direction's logit. With a product (fresh) the last step is taken first and
// the new direction is stored; without, z + step * dz is looked at and nothing is stored.
__device__ inline float logit_at_end(
    float* z, float* dz, long long at, float step, const float* fresh, const float* fresh_low, long long from,
    float unscale, float offset, float* direction
) {
    if (fresh == 0) {
        *direction = dz[at];
        return z[at] + step * *direction;
    }
    float product = fresh[from];
    if (fresh_low != 0) product += fresh_low[from] * (1.0f / LOW);
    float d = product * unscale + offset;
    float here = z[at] + step * dz[at];
    z[at] = here;
    dz[at] = d;
    *direction = d;
    return here + d;
}

__device__ inline void write_residual(
    float residual, long long at, float scale, float* wide, half_bits* high, half_bits* low
) {
    if (wide != 0) wide[at] = residual;
    if (high != 0) split_float(residual * scale, high + at, low + at);
}

// One column per head (two classes). grid (blocks, K), any whole number of warps per block.
extern "C" __global__ void stage_sigmoid(
    WRITE(float) z, WRITE(float) dz, long long ld,           // (slots, 1, ld), from the block's first row on
    READ(int) slots, READ(float) step,                       // (K)
    READ(float) fresh, READ(float) fresh_low,                // (K, ldb) products, or null
    READ(float) unscale, READ(float) offset,                 // (K) of the products
    long long ldb, int rows, READ(unsigned short) labels, READ(unsigned char) codes, READ(float) values,
    READ(float) dense, long long n, int coded, READ(int) weighting, READ(float) scale,
    WRITE(float) wide, WRITE(half_bits) high, WRITE(half_bits) low,  // residuals (K, ldb), in one form or none
    WRITE(double) partials                                   // (K * 3, blocks): loss, slope, sum of residuals
) {
    int head = blockIdx.y, slot = slots[head], which = weighting[head];
    Weights weights = {codes, values, dense, n, coded};
    float t = step[head], factor = unscale[head], shift = offset[head], grow = scale[head];
    double loss = 0, slope = 0, total = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows; i += gridDim.x * blockDim.x) {
        long long from = head * ldb + i;
        float d;
        float end = logit_at_end(z, dz, slot * ld + i, t, fresh, fresh_low, from, factor, shift, &d);
        // The logit of the other class: 1 - p would be rounding where p is almost 1.
        float w = weight_of(weights, which, i), sign = 1.0f - 2.0f * labels[i], other = sign * end;
        float small = expf(-fabsf(end)), inverse = 1.0f / (1.0f + small);
        float residual = (other >= 0 ? inverse : small * inverse) * sign * w;
        loss += (double)((log1pf(small) + fmaxf(other, 0.0f)) * w);
        slope += (double)residual * (double)d;
        total += (double)residual;
        write_residual(residual, from, grow, wide, high, low);
    }
    loss = block_sum(loss);
    slope = block_sum(slope);
    total = block_sum(total);
    if (threadIdx.x == 0) {
        double* out = partials + (long long)head * 3 * gridDim.x + blockIdx.x;
        out[0] = loss;
        out[gridDim.x] = slope;
        out[2 * gridDim.x] = total;
    }
}

// c columns per head. A block holds the logits of blockDim.x rows in shared memory; blockDim.y lanes share a row's
// columns. `segments` threads per column add up its residuals. grid (blocks, K).
extern "C" __global__ void __launch_bounds__(512, 2) stage_softmax(
    WRITE(float) z, WRITE(float) dz, long long ld, READ(int) slots, READ(float) step, READ(float) fresh,
    READ(float) fresh_low, READ(float) unscale, READ(float) offset, long long ldb, int rows,
    READ(unsigned short) labels, READ(unsigned char) codes, READ(float) values, READ(float) dense, long long n,
    int coded, READ(int) weighting, READ(float) scale, WRITE(float) wide, WRITE(half_bits) high,
    WRITE(half_bits) low, WRITE(double) partials, int columns, int segments
) {
    SHARED_ROOM(room);
    int tile_rows = blockDim.x, lanes = blockDim.y, x = threadIdx.x, lane = threadIdx.y, pitch = tile_rows + 1;
    double* sums = (double*)room;                         // (c, segments)
    float* tile = (float*)(sums + columns * segments);    // (c, pitch)
    float* lane_max = tile + columns * pitch;             // (lanes, rows) each
    float* lane_sum = lane_max + lanes * tile_rows;
    float* lane_slope = lane_sum + lanes * tile_rows;
    float* row_max = lane_slope + lanes * tile_rows;      // (rows) each
    float* row_factor = row_max + tile_rows;
    float* row_target = row_factor + tile_rows;           // the class's logit, then the sum of the others
    float* row_direction = row_target + tile_rows;
    int head = blockIdx.y, slot = slots[head], which = weighting[head];
    int thread = thread_index(), threads = block_threads();
    bool residuals = wide != 0 || high != 0;
    Weights weights = {codes, values, dense, n, coded};
    float t = step[head];
    double loss = 0, slope = 0;
    for (int p = thread; p < columns * segments; p += threads) sums[p] = 0;
    for (int first = blockIdx.x * tile_rows; first < rows; first += gridDim.x * tile_rows) {
        int i = first + x;
        bool active = i < rows;
        int label = active ? labels[i] : -1;
        float w = active ? weight_of(weights, which, i) : 0.0f;
        // One walk over the logits: the largest, and sums of exponentials that follow it, without the row's own class:
        // digits that 1 - p would not have where p is almost 1.
        float largest = MINUS_INFINITY, sum = 0, sum_slope = 0;
        #pragma unroll 2
        for (int c = lane; c < (active ? columns : 0); c += lanes) {
            int column = head * columns + c;
            float d;
            float end = logit_at_end(
                z, dz, ((long long)slot * columns + c) * ld + i, t, fresh, fresh_low, column * ldb + i, unscale[column],
                offset[column], &d
            );
            tile[c * pitch + x] = end;
            if (c == label) {
                row_target[x] = end;
                row_direction[x] = d;
            } else if (end > largest) {
                float shrink = expf(largest - end);
                sum = sum * shrink + 1.0f;
                sum_slope = sum_slope * shrink + d;
                largest = end;
            } else {
                float e = expf(end - largest);
                sum += e;
                sum_slope += e * d;
            }
        }
        lane_max[lane * tile_rows + x] = largest;
        lane_sum[lane * tile_rows + x] = sum;
        lane_slope[lane * tile_rows + x] = sum_slope;
        __syncthreads();
        if (lane == 0 && active) {
            largest = row_target[x];
            for (int l = 0; l < lanes; l++) largest = fmaxf(largest, lane_max[l * tile_rows + x]);
            sum = sum_slope = 0;
            for (int l = 0; l < lanes; l++) {
                float shrink = expf(lane_max[l * tile_rows + x] - largest);
                sum += lane_sum[l * tile_rows + x] * shrink;
                sum_slope += lane_slope[l * tile_rows + x] * shrink;
            }
            float target = row_target[x] - largest, own = expf(target), factor = w / (sum + own);
            loss += (double)((log1pf(target < 0 ? sum + own - 1.0f : sum) - target) * w);
            slope += (double)(sum_slope - sum * row_direction[x]) * (double)factor;
            row_max[x] = largest;
            row_factor[x] = factor;
            row_target[x] = sum;
        }
        __syncthreads();
        if (!residuals) continue;
        for (int c = lane; c < columns; c += lanes) {
            float residual = 0;
            if (active) {
                int column = head * columns + c;
                residual = (c == label ? -row_target[x] : expf(tile[c * pitch + x] - row_max[x])) * row_factor[x];
                write_residual(residual, column * ldb + i, scale[head], wide, high, low);
            }
            tile[c * pitch + x] = residual;
        }
        __syncthreads();
        int length = tile_rows / segments;
        for (int p = thread; p < columns * segments; p += threads) {
            const float* from = tile + (p / segments) * pitch + (p % segments) * length;
            double total = 0;
            for (int r = 0; r < length; r++) total += (double)from[r];
            sums[p] += total;
        }
        __syncthreads();
    }
    loss = block_sum(loss);
    slope = block_sum(slope);
    double* out = partials + (long long)head * (2 + columns) * gridDim.x + blockIdx.x;
    if (thread == 0) {
        out[0] = loss;
        out[gridDim.x] = slope;
    }
    for (int c = thread; c < columns; c += threads) {
        double total = 0;
        for (int s = 0; s < segments; s++) total += sums[c * segments + s];
        out[(2LL + c) * gridDim.x] = total;
    }
}

// totals (outputs) = or += the sums of partials (outputs, parts). A warp per output; grid (outputs / warps).
extern "C" __global__ void reduce(const double* partials, int parts, int outputs, int add, double* totals) {
    int output = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (output >= outputs) return;
    double total = 0;
    for (int p = lane; p < parts; p += 32) total += partials[(long long)output * parts + p];
    total = warp_sum(total);
    if (lane == 0) totals[output] = add ? totals[output] + total : total;
}

// Weights on standardized features, of columns (M, d + 1), as those on the features as stored: direction / scale, and
// the offset that centres them. In float32, or as two float16 after a power of two. A block per column.
extern "C" __global__ void fold(
    const double* direction, const double* inverse, const double* rest, int d, int columns,
    float* wide, half_bits* high, half_bits* low, float* unscale, float* offset
) {
    int column = blockIdx.x;
    const double* w = direction + (long long)column * (d + 1);
    double shift = 0, largest = 0;
    for (int j = threadIdx.x; j < d; j += blockDim.x) {
        double u = w[j] * inverse[j];
        shift += u * rest[j];
        largest = fabs(u) > largest ? fabs(u) : largest;
    }
    shift = block_sum(shift);
    largest = block_max(largest);
    int exponent = 0;
    // A largest weight of 2^14: its sum of products stays far below float32's limit, its float16 below 65504.
    if (high != 0 && largest > 0) frexp(largest, &exponent);
    exponent = exponent < -100 ? -100 : exponent > 100 ? 100 : exponent;
    double grow = high != 0 ? ldexp(1.0, 14 - exponent) : 1.0;
    for (int j = threadIdx.x; j < d; j += blockDim.x) {
        double u = w[j] * inverse[j] * grow;
        long long at = (long long)column * d + j;
        if (wide != 0) wide[at] = (float)u;
        if (high != 0) {
            half_bits bits = float_to_half((float)u);
            high[at] = bits;
            low[at] = float_to_half((float)((u - (double)half_to_float(bits)) * (double)LOW));
        }
    }
    if (threadIdx.x == 0) {
        unscale[column] = (float)(1.0 / grow);
        offset[column] = (float)(w[d] - shift);
    }
}

// Gradients (M, d + 1) by weights on standardized features and intercepts, from products of residuals with rows,
// products (chunks, terms * M, d) float32. total (M, d) float64 holds what earlier blocks of rows gave (unless `first`)
// and takes this one's; with `sums` (K, 2 + per_head), which hold the residuals' sums, the gradient is finished.
// grid (M, d / threads).
extern "C" __global__ void unfold(
    const float* products, int chunks, int terms, int d, int columns, const float* scale, int per_head,
    double* total, int first, const double* sums, const double* rest, const double* inverse, double* gradient
) {
    int column = blockIdx.x, j = blockIdx.y * blockDim.x + threadIdx.x, head = column / per_head;
    if (j > d) return;
    double ones = sums != 0 ? sums[head * (2 + per_head) + 2 + column % per_head] : 0.0;
    if (j == d) {
        if (sums != 0) gradient[(long long)column * (d + 1) + d] = ones;
        return;
    }
    double value = 0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float* from = products + ((long long)chunk * terms * columns + column) * d + j;
        value += (double)from[0];
        if (terms == 2) value += (double)from[(long long)columns * d] * (1.0 / (double)LOW);
    }
    value /= (double)scale[head];
    long long at = (long long)column * d + j;
    if (!first) value += total[at];
    if (sums == 0) total[at] = value;
    else gradient[(long long)column * (d + 1) + j] = (value - ones * rest[j]) * inverse[j];
}

// (rows) float64 mean over the listed heads and their columns of w p (1 - p), at z + step * dz, of every stride-th row.
extern "C" __global__ void curvature(
    const float* z, const float* dz, long long ld, int columns, const int* slots, const float* step, int heads,
    const unsigned char* codes, const float* values, const float* dense, long long n, int coded, const int* weighting,
    int rows, int stride, double* out
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows) return;
    long long row = (long long)i * stride;
    Weights weights = {codes, values, dense, n, coded};
    double total = 0;
    for (int h = 0; h < heads; h++) {
        long long base = (long long)slots[h] * columns * ld + row;
        float t = step[h], w = weight_of(weights, weighting[h], row);
        if (columns == 1) {
            float small = expf(-fabsf(z[base] + t * dz[base]));
            total += (double)(w * small / ((1.0f + small) * (1.0f + small)));
            continue;
        }
        // 2 sum of p q over pairs of classes is the sum of p (1 - p), which would be rounding where p is almost 1.
        float largest = MINUS_INFINITY, sum = 0, pairs = 0;
        for (int c = 0; c < columns; c++) {
            float logit = z[base + c * ld] + t * dz[base + c * ld];
            float shrink = logit > largest ? expf(largest - logit) : 1.0f;
            largest = fmaxf(largest, logit);
            float e = expf(logit - largest);
            sum *= shrink;
            pairs = pairs * shrink * shrink + e * sum;
            sum += e;
        }
        total += (double)(w * 2.0f * pairs / (sum * sum));
    }
    out[i] = total / ((double)heads * columns);
}
