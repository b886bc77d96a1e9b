
// Layers that do not attend, behind `kernels.cu`: a short convolution of single channels, and for each head a matrix that every token
// decays, writes to and reads. What they compute is in `recurrence.rs`. A chunk is consecutive tokens of a row; its state is the last
// inputs of the convolution [kernel - 1][channels], and then a matrix [key_dim][value_dim] for each head, in float. Chunks that
// fill up a recorded step have none.

#define DELTA_NET 0
#define MAMBA 1
#define SHORT_CONV 2

// Rows of a head's matrix that a thread has.
#define MATRIX_ROWS 32
#define LARGEST_KEY 1024

struct Mixer {
    u32 kind, key_heads, heads, key_dim, value_dim, kernel, channels, cols, matrix, start, conv;
};

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

__device__ __forceinline__ float *state_of(u64 state, const Mixer &mixer) { return (float *)state + mixer.start; }

// What of a row's inputs goes through the convolution.
__device__ __forceinline__ float convolved(const element *row, const Mixer &mixer, u32 channel) {
    if (mixer.kind == SHORT_CONV) return to_float(row[channel]) * to_float(row[2 * mixer.channels + channel]);
    return to_float(row[(mixer.kind == MAMBA ? mixer.heads * mixer.value_dim : 0) + channel]);
}

// The causal convolution of each row's channels, and its activation. A thread for each channel.
extern "C" __global__ void convolve(const element *inputs, Mixer mixer, const u64 *states, const u32 *firsts, const u32 *chunk_of,
                                    const float *weight, const float *bias, float *mixed) {
    u32 row = blockIdx.x, channel = blockIdx.y * blockDim.x + threadIdx.x, chunk = chunk_of[row];
    if (channel >= mixer.channels || !states[chunk]) return;
    const float *state = state_of(states[chunk], mixer);
    u32 first = firsts[chunk], before = mixer.kernel - 1, token = row - first;
    float sum = bias[channel];
    for (u32 k = 0; k < mixer.kernel; k++) {
        u32 at = token + k; // counted from the first input of the state
        float x = at < before ? state[at * mixer.channels + channel]
                              : convolved(inputs + (u64)(first + at - before) * mixer.cols, mixer, channel);
        sum += weight[k * mixer.channels + channel] * x;
    }
    mixed[(u64)row * mixer.channels + channel] = mixer.kind == SHORT_CONV ? sum : silu(sum);
}

// The state keeps each chunk's last inputs. A thread for each channel.
extern "C" __global__ void keep_inputs(const element *inputs, Mixer mixer, const u64 *states, const u32 *firsts) {
    u32 chunk = blockIdx.x, channel = blockIdx.y * blockDim.x + threadIdx.x;
    if (channel >= mixer.channels || !states[chunk]) return;
    float *state = state_of(states[chunk], mixer);
    u32 first = firsts[chunk], tokens = firsts[chunk + 1] - first, before = mixer.kernel - 1;
    for (u32 i = 0; i < before; i++) {
        u32 at = tokens + i; // is not written yet, where it is the state's
        state[i * mixer.channels + channel] = at < before
                                                  ? state[at * mixer.channels + channel]
                                                  : convolved(inputs + (u64)(first + at - before) * mixer.cols, mixer, channel);
    }
}

// DeltaNet's queries and keys of unit length, queries divided by the root of their length besides. A warp for each.
extern "C" __global__ void unit_length(Mixer mixer, float *mixed) {
    float *own = mixed + (u64)blockIdx.x * mixer.channels + blockIdx.y * mixer.key_dim;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < mixer.key_dim; i += WARP) sum += own[i] * own[i];
    float factor = 1.0f / sqrtf(warp_sum(sum) + 1e-6f);
    if (blockIdx.y < mixer.key_heads) factor /= sqrtf((float)mixer.key_dim);
    for (u32 i = threadIdx.x; i < mixer.key_dim; i += WARP) own[i] *= factor;
}

// For each row and head: by how much its matrix is decayed, and how strongly it is written to. They stand at the end of the inputs:
// strengths and steps, or steps alone.
extern "C" __global__ void strengths(const element *inputs, Mixer mixer, const float *decay, const float *step, u32 count,
                                     float2 *factors) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 head = i % mixer.heads;
    const element *end = inputs + (u64)(i / mixer.heads + 1) * mixer.cols - mixer.heads;
    float width = softplus(to_float(end[head]) + step[head]), strength = width;
    if (mixer.kind == DELTA_NET) strength = 1.0f / (1.0f + expf(-to_float(*(end + head - mixer.heads))));
    factors[i] = make_float2(expf(-expf(decay[head]) * width), strength);
}

// The tokens of a chunk through one head's matrix, for some of its values: as many neighbouring threads as `lanes` says share a
// column of the matrix, which they keep in registers.
extern "C" __global__ void __launch_bounds__(128) recur(const float *mixed, const float2 *factors, Mixer mixer, u32 lanes,
                                                        const u64 *states, const u32 *firsts, float *read) {
    __shared__ float key[LARGEST_KEY], query[LARGEST_KEY];
    u32 chunk = blockIdx.x, head = blockIdx.y % mixer.heads;
    u32 column = blockIdx.y / mixer.heads * (blockDim.x / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    if (!states[chunk]) return;
    float *matrix = state_of(states[chunk], mixer) + mixer.conv + (u64)head * mixer.matrix;
    u32 width = mixer.heads * mixer.value_dim, keys = mixer.key_heads * mixer.key_dim;
    u32 key_head = head / (mixer.heads / mixer.key_heads);
    // DeltaNet's queries, keys and values stand in this order, Mamba's in the opposite one.
    bool is_delta = mixer.kind == DELTA_NET, has_column = column < mixer.value_dim;
    u32 queries_at = (is_delta ? 0 : width + keys) + key_head * mixer.key_dim;
    u32 keys_at = (is_delta ? keys : width) + key_head * mixer.key_dim;
    u32 value_at = (is_delta ? 2 * keys : 0) + head * mixer.value_dim + column;
    float own[MATRIX_ROWS];
#pragma unroll
    for (u32 i = 0; i < MATRIX_ROWS; i++) {
        u32 row = i * lanes + lane;
        own[i] = has_column && row < mixer.key_dim ? matrix[row * mixer.value_dim + column] : 0.0f;
    }
    for (u32 row = firsts[chunk]; row < firsts[chunk + 1]; row++) {
        const float *of_row = mixed + (u64)row * mixer.channels;
        __syncthreads(); // whoever reads the last token's
        for (u32 i = threadIdx.x; i < mixer.key_dim; i += blockDim.x) {
            query[i] = of_row[queries_at + i];
            key[i] = of_row[keys_at + i];
        }
        __syncthreads();
        float2 by = factors[(u64)row * mixer.heads + head]; // decay and strength
        float value = has_column ? of_row[value_at] : 0.0f;
        if (is_delta) { // what the decayed matrix has for the key already
            float known = 0.0f;
#pragma unroll
            for (u32 i = 0; i < MATRIX_ROWS; i++) {
                u32 at = i * lanes + lane;
                if (at < mixer.key_dim) known += key[at] * own[i];
            }
            for (u32 mask = lanes / 2; mask > 0; mask /= 2) known += __shfl_xor_sync(FULL, known, mask);
            value -= by.x * known;
        }
        value *= by.y;
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < MATRIX_ROWS; i++) {
            u32 at = i * lanes + lane;
            if (at >= mixer.key_dim) continue;
            own[i] = by.x * own[i] + key[at] * value;
            sum += query[at] * own[i];
        }
        for (u32 mask = lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(FULL, sum, mask);
        if (has_column && lane == 0) read[(u64)row * width + head * mixer.value_dim + column] = sum;
    }
#pragma unroll
    for (u32 i = 0; i < MATRIX_ROWS; i++) {
        u32 row = i * lanes + lane;
        if (has_column && row < mixer.key_dim) matrix[row * mixer.value_dim + column] = own[i];
    }
}

// From what was read to what goes back to the stream. A row that fills up a step is zero.

// Normed head by head, and gated. A block for each row and head.
extern "C" __global__ void finish_delta(const element *inputs, const float *read, Mixer mixer, const u64 *states,
                                        const u32 *chunk_of, const float *norm, float eps, element *out) {
    u32 row = blockIdx.x, at = blockIdx.y * mixer.value_dim, width = mixer.heads * mixer.value_dim;
    bool is_there = states[chunk_of[row]];
    const float *from = read + (u64)row * width + at;
    const element *gates = inputs + (u64)row * mixer.cols + mixer.channels + at;
    element *to = out + (u64)row * width + at;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < mixer.value_dim; i += blockDim.x) sum += is_there ? from[i] * from[i] : 0.0f;
    float factor = factor_of(block_sum(sum), mixer.value_dim, eps);
    for (u32 i = threadIdx.x; i < mixer.value_dim; i += blockDim.x)
        to[i] = to_element(is_there ? from[i] * factor * norm[i] * silu(to_float(gates[i])) : 0.0f);
}

// What passes by the matrix is added; gated, and normed as a whole. A block for each row.
extern "C" __global__ void finish_mamba(const element *inputs, const float *mixed, float *read, Mixer mixer, const u64 *states,
                                        const u32 *chunk_of, const float *skip, const float *norm, float eps, element *out) {
    u32 row = blockIdx.x, width = mixer.heads * mixer.value_dim;
    bool is_there = states[chunk_of[row]];
    float *own = read + (u64)row * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; is_there && i < width; i += blockDim.x) {
        float passed = mixed[(u64)row * mixer.channels + i] * skip[i / mixer.value_dim];
        own[i] = (own[i] + passed) * silu(to_float(inputs[(u64)row * mixer.cols + i])); // each thread reads what it wrote
        sum += own[i] * own[i];
    }
    float factor = factor_of(block_sum(sum), width, eps);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        out[(u64)row * width + i] = to_element(is_there ? own[i] * factor * norm[i] : 0.0f);
}

// Gated by the inputs' middle third. A thread for each number.
extern "C" __global__ void finish_conv(const element *inputs, const float *mixed, Mixer mixer, const u64 *states,
                                       const u32 *chunk_of, u64 count, element *out) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u64 row = i / mixer.channels, gate = row * mixer.cols + mixer.channels + i % mixer.channels;
    out[i] = to_element(states[chunk_of[row]] ? to_float(inputs[gate]) * mixed[i] : 0.0f);
}
