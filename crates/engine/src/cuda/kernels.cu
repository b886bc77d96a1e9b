// The kernels of the forward pass, compiled at run time (NVRTC) for one element type (ELEMENT 0: float, 1: bfloat16, 2:
// half), for a device with tensor cores for it where MMA is 1, and, where TENSOR_CORES is 1 too, for heads of DIM dimensions; all others take
// heads of up to LARGEST_HEAD, a multiple of 32. Weights, activations, keys and values are elements; sums, softmax, logits and
// the residual stream are float. No header is needed.
//
// Keys and values: a block holds BLOCK tokens. In a block, for each layer of the path: keys [kv_head][BLOCK][dim], then
// values [kv_head][dim][BLOCK]. Both are read 16 bytes at a time along their last index.

#define BLOCK 32
#define WARP 32
#define FULL 0xffffffffu

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#ifndef EMULATED
__device__ __forceinline__ u32 float_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float bits_float(u32 x) { return __uint_as_float(x); }
#endif

#if ELEMENT == 0
typedef float element;
__device__ __forceinline__ float to_float(element x) { return x; }
__device__ __forceinline__ element to_element(float x) { return x; }
#elif ELEMENT == 1
typedef u16 element;
__device__ __forceinline__ float to_float(element x) { return bits_float((u32)x << 16); }
// To nearest, ties to even; a NaN stays one.
__device__ __forceinline__ element to_element(float x) {
    u32 bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#else
typedef u16 element;
#ifndef EMULATED
__device__ __forceinline__ float to_float(element x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ element to_element(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif
#endif

__device__ __forceinline__ float warp_sum(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(FULL, x, mask);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, mask));
    return x;
}

// Sum over the block; every thread gets it. At most 1,024 threads, whole warps.
__device__ float block_sum(float x) {
    __shared__ float parts[WARP];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / WARP; i++) sum += parts[i];
    return sum;
}

// The embedding of a block's token; one with its highest bit set is an index into `picked`.
__device__ __forceinline__ const element *embedding(const u32 *tokens, const u32 *picked, const element *table, u32 cols) {
    u32 token = tokens[blockIdx.x];
    if (token >> 31) token = picked[token & 0x7fffffffu];
    return table + (u64)token * cols;
}

// h[row] = scale * table[token], plus learned[position] where there is one.
extern "C" __global__ void embed(const u32 *tokens, const u32 *picked, const element *table, const u32 *positions,
                                 const element *learned, float scale, u32 cols, float *h) {
    const element *from = embedding(tokens, picked, table, cols);
    const element *of_position = learned ? learned + (u64)positions[blockIdx.x] * cols : 0;
    float *to = h + (u64)blockIdx.x * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float x = scale * to_float(from[i]);
        to[i] = of_position ? x + to_float(of_position[i]) : x;
    }
}

extern "C" __global__ void scale_stream(float *h, float factor, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) h[i] *= factor;
}

// A norm: what it multiplies with and adds, `weights` and `biases` numbers, and whether it takes the mean away first (LayerNorm).
// Without a weight there is none.
struct Norm {
    const float *weight, *bias;
    u32 weights, biases, centred;
    float eps;
};

// What a norm takes away from numbers, and multiplies them with.
struct Scaling {
    float mean, factor;
};

__device__ float factor_of(float squares, u32 count, float eps) { return 1.0f / sqrtf(squares / (float)count + eps); }

// Of a row of floats. For one block.
__device__ Scaling scaling_of(const float *row, u32 cols, const Norm &norm) {
    float mean = 0.0f, sum = 0.0f;
    if (norm.centred) {
        for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += row[i];
        mean = block_sum(sum) / (float)cols;
        sum = 0.0f;
    }
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += (row[i] - mean) * (row[i] - mean);
    return {mean, factor_of(block_sum(sum), cols, norm.eps)};
}

// One number by the weight and the bias of their places.
__device__ float by_norm(float x, const Scaling &scaling, const Norm &norm, u32 weight, u32 bias) {
    float y = (x - scaling.mean) * scaling.factor * norm.weight[weight];
    return norm.biases ? y + norm.bias[bias] : y;
}

// x = norm(h), or a copy without one. One block for each row.
extern "C" __global__ void norm_rows(const float *h, Norm norm, u32 cols, element *x) {
    const float *from = h + (u64)blockIdx.x * cols;
    element *to = x + (u64)blockIdx.x * cols;
    if (!norm.weight) {
        for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] = to_element(from[i]);
        return;
    }
    Scaling scaling = scaling_of(from, cols, norm);
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] = to_element(by_norm(from[i], scaling, norm, i, i));
}

// Each token's embedding in a layer: what `x`, its projection, is normed to, and `root` times its own of the layer's table, as elements.
extern "C" __global__ void embed_in_layer(const float *x, Norm norm, const u32 *tokens, const u32 *picked, const element *table,
                                          float root, u32 cols, element *out) {
    const float *from = x + (u64)blockIdx.x * cols;
    const element *own = embedding(tokens, picked, table, cols);
    Scaling scaling = scaling_of(from, cols, norm);
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x)
        out[(u64)blockIdx.x * cols + i] = to_element((by_norm(from[i], scaling, norm, i, i) + root * to_float(own[i])) * sqrtf(0.5f));
}

extern "C" __global__ void multiply_by(element *x, const element *by, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = to_element(to_float(x[i]) * to_float(by[i]));
}

// x += bias, row by row.
extern "C" __global__ void add_bias(element *x, const float *bias, u32 cols, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = to_element(to_float(x[i]) + bias[i % cols]);
}

// The same of logits, which are float.
extern "C" __global__ void add_bias_to_logits(float *x, const float *bias, u32 cols, u64 count) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] += bias[i % cols];
}

// h += scale * norm(branch + bias): the end of a branch that has a bias or a norm.
extern "C" __global__ void add_branch(float *branch, const float *bias, u32 has_bias, Norm norm, float scale, u32 cols, float *h) {
    float *from = branch + (u64)blockIdx.x * cols;
    float *to = h + (u64)blockIdx.x * cols;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) from[i] = from[i] + (has_bias ? bias[i] : 0.0f);
    if (!norm.weight) {
        for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] += scale * from[i];
        return;
    }
    Scaling scaling = scaling_of(from, cols, norm); // each thread reads what it wrote
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[i] += scale * by_norm(from[i], scaling, norm, i, i);
}

// Norms queries or keys over their whole width, in place (OLMo 2): columns first..first + width of rows of `cols`.
extern "C" __global__ void norm_width(element *qkv, const float *weight, float eps, u32 cols, u32 first, u32 width) {
    element *row = qkv + (u64)blockIdx.x * cols + first;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float x = to_float(row[i]);
        sum += x * x;
    }
    float factor = factor_of(block_sum(sum), width, eps);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) row[i] = to_element(to_float(row[i]) * factor * weight[i]);
}

// Norms one head, number `head` of its kind; of a norm whose weights are those of all heads, by its own. For one warp, of which each
// thread has every 32nd number.
__device__ void norm_head(float *values, const Norm &norm, u32 head, u32 dim) {
    u32 lane = threadIdx.x;
    float mean = 0.0f, sum = 0.0f;
    if (norm.centred) {
        for (u32 i = lane; i < dim; i += WARP) sum += values[i];
        mean = warp_sum(sum) / (float)dim;
        sum = 0.0f;
    }
    for (u32 i = lane; i < dim; i += WARP) sum += (values[i] - mean) * (values[i] - mean);
    Scaling scaling = {mean, factor_of(warp_sum(sum), dim, norm.eps)};
    for (u32 i = lane; i < dim; i += WARP) {
        u32 place = head * dim + i;
        values[i] = by_norm(values[i], scaling, norm, place % norm.weights, norm.biases ? place % norm.biases : 0);
    }
}

// Norms and rotates one head of one token; keys and values go to their place in a block. One warp for each head; `kv_heads` is 0 where a
// layer computes no keys. All are held within `limit`, where it is not 0; the norm is 1: before the rotation, 2: after it; values are
// normed by no weight where `norms_values` says so. Queries grow by their row's `growth`, where there is one. `blocks` and `slots`
// have each row's place, where the layer's begins after `start` elements.
extern "C" __global__ void heads(element *qkv, u32 cols, u32 dim, u32 q_heads, u32 kv_heads, Norm q_norm, Norm k_norm, u32 normed,
                                 u32 norms_values, float limit, const float *rotations, u32 half_width, const float *growth,
                                 const u64 *blocks, const u32 *slots, u32 start) {
    __shared__ float values[LARGEST_HEAD];
    u32 row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x;
    element *own = qkv + (u64)row * cols + head * dim;
    bool is_query = head < q_heads, is_value = head >= q_heads + kv_heads;
    const Norm &norm = is_query ? q_norm : k_norm;
    u32 of_kind = is_query ? head : head - q_heads;
    for (u32 i = lane; i < dim; i += WARP) values[i] = to_float(own[i]);
    if (!is_value && normed == 1) norm_head(values, norm, of_kind, dim);
    if (is_value && norms_values) {
        float sum = 0.0f;
        for (u32 i = lane; i < dim; i += WARP) sum += values[i] * values[i];
        float factor = factor_of(warp_sum(sum), dim, norm.eps);
        for (u32 i = lane; i < dim; i += WARP) values[i] *= factor;
    }
    if (limit > 0.0f)
        for (u32 i = lane; i < dim; i += WARP) values[i] = values[i] > limit ? limit : values[i] < -limit ? -limit : values[i];
    __syncwarp();
    if (!is_value) {
        const float *angles = rotations + (u64)row * 2 * half_width;
        for (u32 i = lane; i < half_width; i += WARP) {
            float x = values[i], y = values[i + half_width], c = angles[i], s = angles[half_width + i];
            values[i] = x * c - y * s;
            values[i + half_width] = y * c + x * s;
        }
        __syncwarp();
        if (normed == 2) norm_head(values, norm, of_kind, dim);
    }
    if (is_query) {
        float factor = growth ? growth[row] : 1.0f;
        for (u32 i = lane; i < dim; i += WARP) own[i] = to_element(values[i] * factor);
        return;
    }
    if (!blocks[row]) return; // a row that fills up a recorded step
    u32 slot = slots[row];
    element *block = (element *)blocks[row] + start;
    if (is_value) {
        element *to = block + (u64)(kv_heads + head - q_heads - kv_heads) * dim * BLOCK + slot;
        for (u32 i = lane; i < dim; i += WARP) to[i * BLOCK] = to_element(values[i]);
    } else {
        element *to = block + ((u64)(head - q_heads) * BLOCK + slot) * dim;
        for (u32 i = lane; i < dim; i += WARP) to[i] = to_element(values[i]);
    }
}

// Attention. An item is up to 16 queries of one key head (any rows, any of the heads that share the key head) against a
// stretch of consecutive keys. Its entries stand in `entries` from first_entry on; each leaves a partial result: the
// largest score, the sum of weights, and the weighted sum of values. `combine` puts the partial results of a query
// together.
struct Item {
    u32 first_entry, entries, first_block, tokens, position;
};

struct Entry {
    u32 row, group_head, limit; // keys before `limit` are visible
};

struct Shape {
    u32 dim, q_heads, kv_heads;
    u32 cols, start;   // of a row of queries; elements of a block before those of the layer
    u32 window, items; // window 0: none
    float scale, softcap; // a cap where SOFTCAP is 1
};

#define NONE (-1e30f)

__device__ __forceinline__ const element *keys_of(u64 block, const Shape &shape, u32 head) {
    return (const element *)block + shape.start + head * shape.dim * BLOCK;
}

__device__ __forceinline__ const element *values_of(u64 block, const Shape &shape, u32 head) {
    return keys_of(block, shape, shape.kv_heads + head);
}

__device__ __forceinline__ float finish_score(float score, u32 position, u32 limit, const Shape &shape) {
    if (position >= limit || (shape.window && position + shape.window < limit)) return NONE;
    score *= shape.scale;
    return SOFTCAP ? shape.softcap * tanhf(score / shape.softcap) : score;
}

// For any dimension and element: one warp for each item and key head, one query after the other. A lane scores one key.
extern "C" __global__ void attend(const element *qkv, const Item *items, const Entry *entries, const u64 *blocks, Shape shape,
                                  float2 *sums, float *partial) {
    __shared__ float query[LARGEST_HEAD];
    u32 head = blockIdx.y, lane = threadIdx.x, group = shape.q_heads / shape.kv_heads;
    Item item = items[blockIdx.x];
    for (u32 e = item.first_entry; e < item.first_entry + item.entries; e++) {
        Entry entry = entries[e];
        const element *q = qkv + (u64)entry.row * shape.cols + (head * group + entry.group_head) * shape.dim;
        __syncwarp();
        for (u32 i = lane; i < shape.dim; i += WARP) query[i] = to_float(q[i]);
        __syncwarp();
        float largest = NONE, sum = 0.0f, out[LARGEST_HEAD / WARP];
        for (u32 j = 0; j < LARGEST_HEAD / WARP; j++) out[j] = 0.0f;
        for (u32 t = 0; t < item.tokens; t += BLOCK) {
            u64 block = blocks[item.first_block + t / BLOCK];
            float score = NONE;
            if (t + lane < item.tokens) {
                const element *k = keys_of(block, shape, head) + lane * shape.dim;
                float dot = 0.0f;
                for (u32 i = 0; i < shape.dim; i++) dot += query[i] * to_float(k[i]);
                score = finish_score(dot, item.position + t + lane, entry.limit, shape);
            }
            float larger = fmaxf(largest, warp_max(score));
            float shrink = expf(largest - larger), weight = score > NONE ? expf(score - larger) : 0.0f;
            sum = sum * shrink + warp_sum(weight);
            for (u32 j = 0; j < LARGEST_HEAD / WARP; j++) out[j] *= shrink;
            const element *v = values_of(block, shape, head);
            u32 seen = min(item.tokens - t, (u32)BLOCK); // what is beyond was never written
            for (u32 k = 0; k < seen; k++) {
                float w = __shfl_sync(FULL, weight, k);
                for (u32 i = lane, j = 0; i < shape.dim; i += WARP, j++) out[j] += w * to_float(v[i * BLOCK + k]);
            }
            largest = larger;
        }
        u64 slot = (u64)e * shape.kv_heads + head;
        for (u32 i = lane, j = 0; i < shape.dim; i += WARP, j++) partial[slot * shape.dim + i] = out[j];
        if (lane == 0) sums[slot] = make_float2(largest, sum);
    }
}

#if MMA
#ifndef EMULATED
// c[16 × 8] += a[16 × 16] · b[16 × 8].
__device__ __forceinline__ void multiply(float *c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if ELEMENT == 1
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}
#endif

// 16 bytes of the device's own memory.
__device__ __forceinline__ uint4 load16(const uint4 *from) {
#ifdef EMULATED
    return *from;
#else
    uint4 r;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(from));
    return r;
#endif
}

#endif

#if TENSOR_CORES
// Values that a lane loads before it multiplies the first: each would otherwise wait for the one before it.
#define AT_ONCE (DIM % 64 == 0 && DIM <= 128 ? 8 : 4)

__device__ __forceinline__ u32 pair(float low, float high) { return (u32)to_element(low) | (u32)to_element(high) << 16; }

__device__ __forceinline__ u32 mask_pair(u32 two, bool low, bool high) {
    return (low ? two & 0xffffu : 0u) | (high ? two & 0xffff0000u : 0u);
}

// On tensor cores, for a head of DIM dimensions, a multiple of 32: one warp for each item and key head, 16 queries × 32 keys at a
// time. In an m16n8k16 product a lane holds, with g = lane / 4 and q = lane % 4: of A rows g and g + 8 and of B column g the
// depths 2q, 2q+1, 2q+8, 2q+9; of C rows g and g + 8, columns 2q and 2q+1. The order of depths is free as long as A and B
// agree, so a lane takes eight neighbouring ones (16 bytes) and serves two products with them; and the keys stand in the
// columns of the scores such that these columns are, for the product with the values, again eight neighbours.
extern "C" __global__ void __launch_bounds__(128)
    attend_on_tensor_cores(const element *qkv, const Item *items, const Entry *entries, const u64 *blocks, Shape shape,
                           float2 *sums, float *partial) {
    u32 index = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (index >= shape.items) return;
    u32 head = blockIdx.y, group = shape.q_heads / shape.kv_heads;
    u32 lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;
    Item item = items[index];
    Entry low = {0, 0, 0}, high = {0, 0, 0}; // limit 0: sees nothing
    if (g < item.entries) low = entries[item.first_entry + g];
    if (g + 8 < item.entries) high = entries[item.first_entry + g + 8];

    uint4 query_low[DIM / 32], query_high[DIM / 32];
    const uint4 *from_low = (const uint4 *)(qkv + (u64)low.row * shape.cols + (head * group + low.group_head) * DIM);
    const uint4 *from_high = (const uint4 *)(qkv + (u64)high.row * shape.cols + (head * group + high.group_head) * DIM);
#pragma unroll
    for (int c = 0; c < DIM / 32; c++) {
        query_low[c] = from_low[c * 4 + q];
        query_high[c] = from_high[c * 4 + q];
    }

    float out[DIM / 8][4];
#pragma unroll
    for (int i = 0; i < DIM / 8; i++)
        for (int j = 0; j < 4; j++) out[i][j] = 0.0f;
    float largest_low = NONE, largest_high = NONE, sum_low = 0.0f, sum_high = 0.0f;

    for (u32 t = 0; t < item.tokens; t += BLOCK) {
        u64 block = blocks[item.first_block + t / BLOCK];
        const element *keys = keys_of(block, shape, head);
        float scores[4][4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 4; i++) scores[j][i] = 0.0f;
            const uint4 *key = (const uint4 *)(keys + (g / 2 * 8 + 2 * j + g % 2) * DIM);
#pragma unroll
            for (int c = 0; c < DIM / 32; c++) {
                uint4 k = load16(key + c * 4 + q), a = query_low[c], b = query_high[c];
                multiply(scores[j], a.x, b.x, a.y, b.y, k.x, k.y);
                multiply(scores[j], a.z, b.z, a.w, b.w, k.z, k.w);
            }
        }
        float larger_low = largest_low, larger_high = largest_high;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 2; i++) {
                u32 key = t + q * 8 + 2 * j + i;
                bool exists = key < item.tokens;
                scores[j][i] = exists ? finish_score(scores[j][i], item.position + key, low.limit, shape) : NONE;
                scores[j][i + 2] = exists ? finish_score(scores[j][i + 2], item.position + key, high.limit, shape) : NONE;
                larger_low = fmaxf(larger_low, scores[j][i]);
                larger_high = fmaxf(larger_high, scores[j][i + 2]);
            }
        }
        for (int mask = 1; mask < 4; mask *= 2) {
            larger_low = fmaxf(larger_low, __shfl_xor_sync(FULL, larger_low, mask));
            larger_high = fmaxf(larger_high, __shfl_xor_sync(FULL, larger_high, mask));
        }
        float shrink_low = __expf(largest_low - larger_low), shrink_high = __expf(largest_high - larger_high);
        largest_low = larger_low;
        largest_high = larger_high;
        sum_low *= shrink_low;
        sum_high *= shrink_high;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 2; i++) {
                scores[j][i] = scores[j][i] > NONE ? __expf(scores[j][i] - larger_low) : 0.0f;
                scores[j][i + 2] = scores[j][i + 2] > NONE ? __expf(scores[j][i + 2] - larger_high) : 0.0f;
                sum_low += scores[j][i];
                sum_high += scores[j][i + 2];
            }
        }
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            out[i][0] *= shrink_low;
            out[i][1] *= shrink_low;
            out[i][2] *= shrink_high;
            out[i][3] *= shrink_high;
        }
        u32 a0 = pair(scores[0][0], scores[0][1]), a1 = pair(scores[0][2], scores[0][3]);
        u32 a2 = pair(scores[1][0], scores[1][1]), a3 = pair(scores[1][2], scores[1][3]);
        u32 b0 = pair(scores[2][0], scores[2][1]), b1 = pair(scores[2][2], scores[2][3]);
        u32 b2 = pair(scores[3][0], scores[3][1]), b3 = pair(scores[3][2], scores[3][3]);
        const element *values = values_of(block, shape, head);
        u32 left = item.tokens - t, first = q * 8;
        const uint4 *value = (const uint4 *)(values + g * BLOCK + first); // 8 elements; BLOCK of these are 8 rows
        if (left >= BLOCK) {
#pragma unroll
            for (int o = 0; o < DIM / 8; o += AT_ONCE) {
                uint4 v[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) v[i] = load16(value + (o + i) * BLOCK);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    multiply(out[o + i], a0, a1, a2, a3, v[i].x, v[i].y);
                    multiply(out[o + i], b0, b1, b2, b3, v[i].z, v[i].w);
                }
            }
        } else {
#pragma unroll
            for (int i = 0; i < DIM / 8; i++) { // what is beyond was never written, and 0 · NaN is NaN
                uint4 v = load16(value + i * BLOCK);
                v.x = mask_pair(v.x, first < left, first + 1 < left);
                v.y = mask_pair(v.y, first + 2 < left, first + 3 < left);
                v.z = mask_pair(v.z, first + 4 < left, first + 5 < left);
                v.w = mask_pair(v.w, first + 6 < left, first + 7 < left);
                multiply(out[i], a0, a1, a2, a3, v.x, v.y);
                multiply(out[i], b0, b1, b2, b3, v.z, v.w);
            }
        }
    }

    for (int mask = 1; mask < 4; mask *= 2) {
        sum_low += __shfl_xor_sync(FULL, sum_low, mask);
        sum_high += __shfl_xor_sync(FULL, sum_high, mask);
    }
    u64 slot_low = (u64)(item.first_entry + g) * shape.kv_heads + head, slot_high = slot_low + 8 * shape.kv_heads;
    bool has_low = g < item.entries, has_high = g + 8 < item.entries;
    if (q == 0 && has_low) sums[slot_low] = make_float2(largest_low, sum_low);
    if (q == 0 && has_high) sums[slot_high] = make_float2(largest_high, sum_high);
#pragma unroll
    for (int i = 0; i < DIM / 8; i++) {
        u32 column = i * 8 + 2 * q;
        if (has_low) *(float2 *)(partial + slot_low * DIM + column) = make_float2(out[i][0], out[i][1]);
        if (has_high) *(float2 *)(partial + slot_high * DIM + column) = make_float2(out[i][2], out[i][3]);
    }
}
#endif

// Puts the partial results of each query together. `lists` has the entries of query (row, group_head) from
// starts[row · group + group_head] on. Where there are `sinks`, each query head has a score beside those of the keys. One block of
// one warp for each row and query head.
extern "C" __global__ void combine(const u32 *starts, const u32 *lists, Shape shape, const float2 *sums, const float *partial,
                                   const float *sinks, element *out) {
    u32 row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x, group = shape.q_heads / shape.kv_heads;
    u32 kv_head = head / group, query = row * group + head % group;
    u32 from = starts[query], to = starts[query + 1];
    float largest = sinks ? sinks[head] : NONE;
    for (u32 i = from; i < to; i++) largest = fmaxf(largest, sums[(u64)lists[i] * shape.kv_heads + kv_head].x);
    float sum = sinks ? expf(sinks[head] - largest) : 0.0f;
    for (u32 i = from; i < to; i++) {
        float2 part = sums[(u64)lists[i] * shape.kv_heads + kv_head];
        sum += part.y * expf(part.x - largest);
    }
    float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    element *own = out + ((u64)row * shape.q_heads + head) * shape.dim;
    for (u32 d = lane; d < shape.dim; d += WARP) {
        float x = 0.0f;
        for (u32 i = from; i < to; i++) {
            u64 slot = (u64)lists[i] * shape.kv_heads + kv_head;
            x += partial[slot * shape.dim + d] * expf(sums[slot].x - largest);
        }
        own[d] = to_element(x * factor);
    }
}

// What the heads attended to, each number by the sigmoid of its gate: the last columns of a row of queries, keys, values and gates.
extern "C" __global__ void gate_heads(const element *qkv, u32 cols, u32 width, u64 count, element *attended) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float gate = to_float(qkv[i / width * cols + cols - width + i % width]);
    attended[i] = to_element(to_float(attended[i]) / (1.0f + expf(-gate)));
}

// 0 SiLU, 1 GELU by tanh, 2 GELU by erf, 3 ReLU, 4 its square; 5 a gate no larger than `limit` times the sigmoid of its `alpha`-fold,
// times one more than what it lets through, which is held within the limit (gpt-oss); 6 xIELU, whose p and n are `alpha` and `limit`.
struct Activation {
    u32 kind;
    float alpha, limit, beta, eps;
};

__device__ __forceinline__ float act(float x, float up, Activation by) {
    float y;
    if (by.kind == 0) y = x / (1.0f + expf(-x));
    else if (by.kind == 1) y = 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    else if (by.kind == 2) y = 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    else if (by.kind == 5) {
        x = x > by.limit ? by.limit : x;
        y = x / (1.0f + expf(-by.alpha * x));
        up = (up > by.limit ? by.limit : up < -by.limit ? -by.limit : up) + 1.0f;
    } else if (by.kind == 6) {
        y = by.beta * x + (x > 0.0f ? by.alpha * x * x : by.limit * (expm1f(x < by.eps ? x : by.eps) - x));
    } else y = x > 0.0f ? x : x * 0.0f;
    if (by.kind == 4) y *= y;
    return y * up;
}

// out = act(gate) * up for rows [gate × cols, up × cols].
extern "C" __global__ void gated(const element *gate_up, Activation activation, u32 cols, u64 count, element *out) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const element *row = gate_up + i / cols * 2 * cols + i % cols;
    out[i] = to_element(act(to_float(row[0]), to_float(row[cols]), activation));
}

// out = act(x), for an MLP without a gate.
extern "C" __global__ void activated(const element *x, Activation activation, u64 count, element *out) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = to_element(act(to_float(x[i]), 1.0f, activation));
}

// Rows of the residual stream, or of elements, that go on.
extern "C" __global__ void keep_stream(const float *from, const u32 *rows, u32 cols, float *to) {
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[(u64)blockIdx.x * cols + i] = from[(u64)rows[blockIdx.x] * cols + i];
}

extern "C" __global__ void keep_elements(const element *from, const u32 *rows, u32 cols, element *to) {
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) to[(u64)blockIdx.x * cols + i] = from[(u64)rows[blockIdx.x] * cols + i];
}

extern "C" __global__ void widen(const element *from, u64 count, float *to) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = to_float(from[i]);
}

__device__ __forceinline__ float finish_logit(float x, float divisor, float softcap) {
    x /= divisor;
    return softcap > 0.0f ? softcap * tanhf(x / softcap) : x;
}

// The largest of a row, the first of equals, by a block of 1,024 threads; NaN is passed over.
__device__ u32 block_argmax(const float *row, u32 cols, float divisor, float softcap) {
    __shared__ float best[1024];
    __shared__ u32 where[1024];
    float value = NONE * 1e8f; // minus infinity
    u32 index = 0;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) {
        float x = finish_logit(row[i], divisor, softcap);
        if (x > value) {
            value = x;
            index = i;
        }
    }
    best[threadIdx.x] = value;
    where[threadIdx.x] = index;
    for (u32 width = blockDim.x / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) {
            u32 other = threadIdx.x + width;
            if (best[other] > best[threadIdx.x] || (best[other] == best[threadIdx.x] && where[other] < where[threadIdx.x])) {
                best[threadIdx.x] = best[other];
                where[threadIdx.x] = where[other];
            }
        }
    }
    __syncthreads();
    return where[0];
}

extern "C" __global__ void pick(const float *logits, u32 cols, float divisor, float softcap, u32 first, u32 *picked) {
    u32 index = block_argmax(logits + (u64)blockIdx.x * cols, cols, divisor, softcap);
    if (threadIdx.x == 0) picked[first + blockIdx.x] = index;
}

// The log-probability of each row's target, and whether it is the most likely.
extern "C" __global__ void log_probability(const float *logits, u32 cols, float divisor, float softcap, const u32 *targets,
                                           float2 *out) {
    const float *row = logits + (u64)blockIdx.x * cols;
    u32 target = targets[blockIdx.x], index = block_argmax(row, cols, divisor, softcap);
    float largest = finish_logit(row[index], divisor, softcap), sum = 0.0f;
    for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += expf(finish_logit(row[i], divisor, softcap) - largest);
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        out[blockIdx.x] = make_float2(finish_logit(row[target], divisor, softcap) - largest - logf(sum), index == target ? 1.0f : 0.0f);
}
