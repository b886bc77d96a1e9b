
// A mixture of experts, compiled behind kernels.cu for EXPERTS of them. A row that goes to an expert is a pair: number
// row · per_token + place, the places of a row in the order of its experts' numbers. Pairs are sorted by expert and cut into tiles,
// which the products share out; no number of blocks depends on where rows go. Nothing is added but in a fixed order.

#define NOWHERE 0xffffffffu // the expert of a row that fills up a recorded step

// Sorted pairs of one expert, from `first` on; an idle one has none.
struct Tile {
    u32 expert, first, count;
};

// How experts are chosen and weighed. Routers: 0 softmax, 1 sigmoid, 2 sparse mixer.
struct Routing {
    u32 per_token, router, groups, best, normalised;
    float floor, scale, jitter;
};

// Whether number x at place i is chosen before y at j: a NaN after all others, the first of equals.
__device__ __forceinline__ bool beats(float x, u32 i, float y, u32 j) {
    bool no_x = x != x, no_y = y != y;
    if (no_x != no_y) return no_y;
    return x > y || (!(x < y) && i < j);
}

// The place of the largest of `count` numbers whose `rank` is 0, which becomes the given one. For one warp.
__device__ u32 take_largest(const float *numbers, u32 *ranks, u32 count, u32 rank) {
    u32 best = count;
    float value = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += WARP) {
        if (ranks[i] || (best < count && !beats(numbers[i], i, value, best))) continue;
        best = i;
        value = numbers[i];
    }
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        u32 other = __shfl_xor_sync(FULL, best, mask);
        float its = __shfl_xor_sync(FULL, value, mask);
        if (other == count || (best < count && !beats(its, other, value, best))) continue;
        best = other;
        value = its;
    }
    if (threadIdx.x == 0) ranks[best] = rank;
    __syncwarp();
    return best;
}

// Leaves minus infinity in all groups but the best, by the sum of their two largest. For one warp.
__device__ void look_into_best_groups(float *numbers, Routing by) {
    __shared__ float sums[EXPERTS];
    __shared__ u32 ranks[EXPERTS];
    u32 size = EXPERTS / by.groups;
    for (u32 group = threadIdx.x; group < by.groups; group += WARP) {
        const float *own = numbers + group * size;
        u32 first = 0, second = size;
        for (u32 i = 1; i < size; i++) {
            if (beats(own[i], i, own[first], first)) {
                second = first;
                first = i;
            } else if (second == size || beats(own[i], i, own[second], second)) second = i;
        }
        sums[group] = second < size ? own[first] + own[second] : own[first];
        ranks[group] = 0;
    }
    __syncwarp();
    for (u32 i = 0; i < by.best; i++) take_largest(sums, ranks, by.groups, 1);
    for (u32 i = threadIdx.x; i < EXPERTS; i += WARP)
        if (!ranks[i / size]) numbers[i] = -bits_float(0x7f800000u);
    __syncwarp();
}

// One over the sum of e^(logit − that of the expert of a rank) over those that are within 2 · jitter of it, relatively, and have no
// better rank. For one warp.
__device__ float share_of_nearly_as_good(const float *logits, const u32 *ranks, u32 expert, float jitter) {
    float largest = logits[expert], sum = 0.0f;
    for (u32 i = threadIdx.x; i < EXPERTS; i += WARP) {
        bool is_far = (largest - logits[i]) / fmaxf(fabsf(logits[i]), largest) > 2.0f * jitter;
        if (!is_far && !(ranks[i] && ranks[i] < ranks[expert])) sum += expf(logits[i] - largest);
    }
    return 1.0f / warp_sum(sum);
}

// Chooses and weighs the experts of a row by its logits [rows, EXPERTS], as `routing.rs` does. `bias`, `correction` and `scales` may be
// missing; `blocks` has 0 for rows that fill up a recorded step, where it is one. A block of one warp for each row.
extern "C" __global__ void route(const float *logits, const float *bias, const float *correction, const float *scales,
                                 const u64 *blocks, Routing by, u32 *chosen, float *weights) {
    __shared__ float own[EXPERTS], scores[EXPERTS], wanted[EXPERTS];
    __shared__ u32 ranks[EXPERTS], picked[EXPERTS];
    u32 lane = threadIdx.x, k = by.per_token;
    chosen += (u64)blockIdx.x * k;
    weights += (u64)blockIdx.x * k;
    if (blocks && !blocks[blockIdx.x]) {
        for (u32 i = lane; i < k; i += WARP) chosen[i] = NOWHERE;
        return;
    }
    float largest = NONE;
    for (u32 i = lane; i < EXPERTS; i += WARP) {
        own[i] = logits[(u64)blockIdx.x * EXPERTS + i] + (bias ? bias[i] : 0.0f);
        largest = fmaxf(largest, own[i]);
        ranks[i] = 0;
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (u32 i = lane; i < EXPERTS; i += WARP) {
        scores[i] = by.router == 1 ? 1.0f / (1.0f + expf(-own[i])) : expf(own[i] - largest);
        sum += scores[i];
    }
    float factor = by.router == 1 ? 1.0f : 1.0f / warp_sum(sum);
    for (u32 i = lane; i < EXPERTS; i += WARP) {
        scores[i] *= factor;
        // The order of probabilities is that of logits.
        wanted[i] = by.router == 1 ? scores[i] + (correction ? correction[i] : 0.0f) : own[i];
    }
    __syncwarp();
    if (by.router == 1 && by.groups > 1) look_into_best_groups(wanted, by);
    float total = 0.0f;
    for (u32 i = 0; i < k; i++) {
        u32 expert = take_largest(wanted, ranks, EXPERTS, i + 1);
        total += scores[expert];
        if (lane == 0) picked[i] = expert;
    }
    __syncwarp();
    total = by.normalised ? by.floor + total : 1.0f;
    for (u32 i = 0; i < k; i++) {
        u32 expert = picked[i], before = 0;
        float weight = by.router == 2 ? share_of_nearly_as_good(own, ranks, expert, by.jitter) : by.scale * scores[expert] / total;
        for (u32 j = 0; j < k; j++) before += picked[j] < expert;
        if (lane > 0) continue;
        chosen[before] = expert;
        weights[before] = scales ? weight * scales[expert] : weight;
    }
}

// Sorts the pairs by expert, those of one in their own order: `order` has the pair at each place. Cuts them into tiles of at most
// `tile`, of which there is room for `most`. A block of 256 threads for each expert.
extern "C" __global__ void sort_by_expert(const u32 *chosen, u32 pairs, u32 tile, u32 most, u32 *order, Tile *tiles) {
    __shared__ u32 counts[EXPERTS], parts[256], before, tiles_before;
    u32 thread = threadIdx.x, expert = blockIdx.x;
    for (u32 i = thread; i < EXPERTS; i += blockDim.x) counts[i] = 0;
    if (thread == 0) before = tiles_before = 0;
    __syncthreads();
    for (u32 i = thread; i < pairs; i += blockDim.x)
        if (chosen[i] != NOWHERE) atomicAdd(&counts[chosen[i]], 1u);
    __syncthreads();
    for (u32 i = thread; i < expert; i += blockDim.x) {
        atomicAdd(&before, counts[i]);
        atomicAdd(&tiles_before, (counts[i] + tile - 1) / tile);
    }
    // Each thread has a stretch of pairs, and goes on where those before it end.
    u32 stretch = (pairs + blockDim.x - 1) / blockDim.x, from = min(thread * stretch, pairs), to = min(from + stretch, pairs);
    u32 found = 0;
    for (u32 i = from; i < to; i++) found += chosen[i] == expert;
    parts[thread] = found;
    __syncthreads();
    u32 place = before;
    for (u32 i = 0; i < thread; i++) place += parts[i];
    for (u32 i = from; i < to; i++)
        if (chosen[i] == expert) order[place++] = i;
    u32 own = (counts[expert] + tile - 1) / tile;
    for (u32 i = thread; i < own; i += blockDim.x) {
        Tile made = {expert, before + i * tile, min(tile, counts[expert] - i * tile)};
        tiles[tiles_before + i] = made;
    }
    if (expert + 1 == EXPERTS)
        for (u32 i = tiles_before + own + thread; i < most; i += blockDim.x) tiles[i].count = 0;
}

// A product with the matrices of all experts. GATED: x [rows, inputs] by row, weights [EXPERTS, 2 · outputs, inputs], gates before
// what they let through; `out` [pairs, outputs] in the order of the experts has what is behind the activation. Otherwise: x [pairs,
// inputs] in that order, weights [EXPERTS, outputs, inputs], `out` [pairs, outputs] by pair.
struct Product {
    const element *x;
    const Tile *tiles;
    const u32 *order;
    const element *weight;
    const float *bias; // or none
    element *out;
    u32 per_token, inputs, outputs;
    Activation activation;
};

template <bool GATED> __device__ __forceinline__ const element *inputs_of(const Product &p, const Tile &tile, u32 token) {
    u32 place = tile.first + min(token, tile.count - 1); // what is beyond is computed and not kept
    return p.x + (u64)(GATED ? p.order[place] / p.per_token : place) * p.inputs;
}

// Of the expert's matrix, one that exists.
template <bool GATED> __device__ __forceinline__ const element *row_of(const Product &p, u32 expert, u32 half, u32 output) {
    u32 row = min(output, p.outputs - 1) + (GATED ? half * p.outputs : 0);
    return p.weight + ((u64)expert * (GATED ? 2 : 1) * p.outputs + row) * p.inputs;
}

// Keeps what a gate lets through.
__device__ __forceinline__ void keep_gated(const Product &p, const Tile &tile, u32 token, u32 output, float gate, float up) {
    if (token >= tile.count || output >= p.outputs) return;
    const float *bias = p.bias + (u64)tile.expert * 2 * p.outputs + output;
    if (p.bias) {
        gate += bias[0];
        up += bias[p.outputs];
    }
    p.out[(u64)(tile.first + token) * p.outputs + output] = to_element(act(gate, up, p.activation));
}

__device__ __forceinline__ void keep_down(const Product &p, const Tile &tile, u32 token, u32 output, float sum) {
    if (token >= tile.count || output >= p.outputs) return;
    if (p.bias) sum += p.bias[(u64)tile.expert * p.outputs + output];
    p.out[(u64)p.order[tile.first + token] * p.outputs + output] = to_element(sum);
}

// For any element: 8 tokens in a tile, a warp for two rows of the matrix, a gate and its own or two neighbours; 8 warps in a block.
template <bool GATED> __device__ void plain(const Product &p) {
    Tile tile = p.tiles[blockIdx.x];
    u32 unit = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 first = GATED ? unit : 2 * unit, second = GATED ? unit : first + 1;
    if (!tile.count || first >= p.outputs) return;
    const element *a = row_of<GATED>(p, tile.expert, 0, first), *b = row_of<GATED>(p, tile.expert, 1, second), *x[8];
    float sums[8][2];
#pragma unroll
    for (u32 t = 0; t < 8; t++) {
        x[t] = inputs_of<GATED>(p, tile, t);
        sums[t][0] = sums[t][1] = 0.0f;
    }
    for (u32 i = lane; i < p.inputs; i += WARP) {
        float from_a = to_float(a[i]), from_b = to_float(b[i]);
#pragma unroll
        for (u32 t = 0; t < 8; t++) {
            if (t >= tile.count) continue;
            float y = to_float(x[t][i]);
            sums[t][0] += from_a * y;
            sums[t][1] += from_b * y;
        }
    }
#pragma unroll
    for (u32 t = 0; t < 8; t++) {
        if (t >= tile.count) continue;
        float one = warp_sum(sums[t][0]), two = warp_sum(sums[t][1]);
        if (lane > 0) continue;
        if (GATED) keep_gated(p, tile, t, first, one, two);
        else {
            keep_down(p, tile, t, first, one);
            keep_down(p, tile, t, second, two);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) plain_gated(Product p) { plain<true>(p); }
extern "C" __global__ void __launch_bounds__(256) plain_down(Product p) { plain<false>(p); }

#if MMA
// Eight elements of a row from `depth` on; 0 beyond its end.
__device__ __forceinline__ uint4 load8(const element *row, u32 depth, u32 inputs) {
    uint4 eight = {0, 0, 0, 0};
    if (depth >= inputs) return eight;
    if (inputs % 8 == 0) return load16((const uint4 *)(row + depth));
    u32 two[4];
    for (u32 i = 0, at = depth; i < 4; i++, at += 2)
        two[i] = (at < inputs ? (u32)row[at] : 0u) | (at + 1 < inputs ? (u32)row[at + 1] << 16 : 0u);
    eight.x = two[0];
    eight.y = two[1];
    eight.z = two[2];
    eight.w = two[3];
    return eight;
}

// On tensor cores, the rows of the matrix being A and the tokens the columns of B (see `attend_on_tensor_cores` for who holds what, and
// in which order of depths): a warp for two tiles of 16 rows, gates and their own or neighbours, and COLUMNS · 8 tokens, the tile. Of
// the 4 warps of a block each has rows of its own or, where they SHARE the same ones, a quarter of their depths: so a few tokens
// still have the whole device read the weights, each once.
template <bool GATED, int COLUMNS, bool SHARE, int LOADS> __device__ void on_mma(const Product &p) {
    Tile tile = p.tiles[blockIdx.x];
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;
    u32 unit = SHARE ? blockIdx.y : blockIdx.y * 4 + warp, first = unit * (GATED ? 16 : 32);
    if (!tile.count || first >= p.outputs) return;
    const element *rows[4], *tokens[COLUMNS];
#pragma unroll
    for (u32 i = 0; i < 4; i++) rows[i] = row_of<GATED>(p, tile.expert, i / 2, first + g + (GATED ? i % 2 : i) * 8);
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) tokens[i] = inputs_of<GATED>(p, tile, i * 8 + g);
    float c[2][COLUMNS][4];
#pragma unroll
    for (u32 i = 0; i < 2 * COLUMNS * 4; i++) c[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4] = 0.0f;

    u32 step = SHARE ? 4 * 32 : 32;
    for (u32 from = SHARE ? warp * 32 : 0; from < p.inputs; from += LOADS * step) {
        // All loads before the first product: each would otherwise wait for the one before it.
        uint4 a[LOADS][4], b[LOADS][COLUMNS];
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            u32 depth = from + i * step + q * 8;
#pragma unroll
            for (u32 r = 0; r < 4; r++) a[i][r] = load8(rows[r], depth, p.inputs);
#pragma unroll
            for (u32 t = 0; t < COLUMNS; t++) b[i][t] = load8(tokens[t], depth, p.inputs);
        }
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
#pragma unroll
            for (u32 t = 0; t < COLUMNS; t++) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    uint4 low = a[i][2 * half], high = a[i][2 * half + 1], x = b[i][t];
                    multiply(c[half][t], low.x, high.x, low.y, high.y, x.x, x.y);
                    multiply(c[half][t], low.z, high.z, low.w, high.w, x.z, x.w);
                }
            }
        }
    }
    if (SHARE) {
        const u32 SUMS = SHARE ? 2 * COLUMNS * 4 : 1;
        __shared__ float parts[4][SUMS][WARP];
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) parts[warp][i][lane] = c[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4];
        __syncthreads();
        if (warp > 0) return;
#pragma unroll
        for (u32 i = 0; i < SUMS; i++)
            c[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4] =
                parts[0][i][lane] + parts[1][i][lane] + parts[2][i][lane] + parts[3][i][lane];
    }
#pragma unroll
    for (u32 t = 0; t < COLUMNS; t++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 token = t * 8 + 2 * q + i % 2, output = first + g + i / 2 * 8;
            if (GATED) keep_gated(p, tile, token, output, c[0][t][i], c[1][t][i]);
            else {
                keep_down(p, tile, token, output, c[0][t][i]);
                keep_down(p, tile, token, output + 16, c[1][t][i]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(128) few_gated_mma(Product p) { on_mma<true, 1, true, 4>(p); }
extern "C" __global__ void __launch_bounds__(128) few_down_mma(Product p) { on_mma<false, 1, true, 4>(p); }
extern "C" __global__ void __launch_bounds__(128) many_gated_mma(Product p) { on_mma<true, 8, false, 1>(p); }
extern "C" __global__ void __launch_bounds__(128) many_down_mma(Product p) { on_mma<false, 8, false, 1>(p); }
#endif

// branch = Σ weight · result, in the order of the experts, plus what the shared expert gives, where there is one: weighed by the
// sigmoid of its gate, where it has one. A block for each row.
extern "C" __global__ void add_experts(const u32 *chosen, const float *weights, const element *results, u32 per_token,
                                       const element *shared, const float *shared_gate, u32 cols, float *branch) {
    u32 row = blockIdx.x;
    u64 pair = (u64)row * per_token;
    float weight = shared_gate ? 1.0f / (1.0f + expf(-shared_gate[row])) : 1.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float sum = 0.0f;
        for (u32 p = 0; p < per_token; p++)
            if (chosen[pair + p] != NOWHERE) sum += weights[pair + p] * to_float(results[(pair + p) * cols + i]);
        if (shared) sum += weight * to_float(shared[(u64)row * cols + i]);
        branch[(u64)row * cols + i] = sum;
    }
}
