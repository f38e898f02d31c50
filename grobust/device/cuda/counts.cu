// Rows that each head gets right, by group: counts (K, g) from the products with its weights, and no array of
// predictions. Ties go to the first class; one column predicts class 1 where its logit is positive. grid (blocks, K);
// counts of a block in shared memory where g ints fit there (`local`).
extern "C" __global__ void count_correct(
    const float* fresh, const float* fresh_low, const float* unscale, const float* offset, long long ldb, int columns,
    int rows, const unsigned short* labels, const int* groups, int n_groups, int local, unsigned long long* correct
) {
    SHARED_ROOM(room);
    int* counts = (int*)room;
    int head = blockIdx.y;
    unsigned long long* out = correct + (long long)head * n_groups;
    if (local) {
        for (int g = threadIdx.x; g < n_groups; g += blockDim.x) counts[g] = 0;
        __syncthreads();
    }
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows; i += gridDim.x * blockDim.x) {
        float best = 0;
        int chosen = 0;
        for (int c = 0; c < columns; c++) {
            int column = head * columns + c;
            float logit = fresh[column * ldb + i];
            if (fresh_low != 0) logit += fresh_low[column * ldb + i] * (1.0f / LOW);
            logit = logit * unscale[column] + offset[column];
            if (columns == 1) chosen = logit > 0;
            else if (c == 0 || logit > best) {
                best = logit;
                chosen = c;
            }
        }
        if (chosen != labels[i]) continue;
        if (local) atomicAdd(counts + groups[i], 1);
        else atomicAdd(out + groups[i], 1ULL);
    }
    if (!local) return;
    __syncthreads();
    for (int g = threadIdx.x; g < n_groups; g += blockDim.x)
        if (counts[g] != 0) atomicAdd(out + g, (unsigned long long)counts[g]);
}
