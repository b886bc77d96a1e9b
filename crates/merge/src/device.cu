// Merges of tensors that lie on a device, compiled at run time (NVRTC) for one type of parents (PARENT 0: float, 1: bfloat16, 2:
// half) and one of weights (ELEMENT, likewise), without fused operations (--fmad=false). Each element goes through the operations
// of fused.rs, linear.rs and slerp.rs in their order, so that its bits are those of the CPU. No header is needed.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef EMULATED
__device__ __forceinline__ u32 float_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float bits_float(u32 x) { return __uint_as_float(x); }
#endif

// Elements of one thread: 16 bytes, where each has two.
#define GROUP 8
// Models of a sum in registers, of one that reads them twice, and of a sum of whole tensors: as in device.rs.
#define MOST 4
#define MOST_MANY 32
#define MOST_MIXED 32
// The numbers that stand for f32, bf16 and f16.
#define F32 0
#define BF16 1
#define F16 2

// As of crates/isa/src/dtype.rs.
__device__ __forceinline__ float widen(u32 bits, u32 type) {
    if (type == F32) return bits_float(bits);
    if (type == BF16) return bits_float(bits << 16);
    u32 sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    u32 scaled = float_bits(bits_float(magnitude) * bits_float((127u + 112u) << 23));
    return bits_float(sign | (magnitude >= 0x7c00u << 13 ? magnitude | 0x7f800000u : scaled));
}

__device__ __forceinline__ u32 narrow(float x, u32 type) {
    u32 bits = float_bits(x), magnitude = bits & 0x7fffffffu;
    if (type == F32) return bits;
    if (type == BF16) return magnitude > 0x7f800000u ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    u32 sign = bits >> 16 & 0x8000u;
    if (magnitude >= (127u + 16u) << 23) return sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u);
    if (magnitude < (127u - 14u) << 23) return sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f));
    return sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
}

#define BYTES(type) ((type) == F32 ? 4 : 2)

// GROUP elements of a parent, fewer at a tensor's end.
struct Group {
    u32 words[GROUP * BYTES(PARENT) / 4];

    __device__ __forceinline__ void read(u64 address, u64 first, u32 count) {
        const u8 *from = (const u8 *)address + first * BYTES(PARENT);
        if (count == GROUP) {
            for (u32 i = 0; i < GROUP * BYTES(PARENT) / 16; i++) {
                uint4 four = ((const uint4 *)from)[i];
                words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
            }
            return;
        }
        for (u32 i = 0; i < GROUP * BYTES(PARENT) / 4; i++) words[i] = 0;
        for (u32 i = 0; i < count; i++) {
            if (PARENT == F32) words[i] = ((const u32 *)from)[i];
            else words[i / 2] |= (u32)((const u16 *)from)[i] << i % 2 * 16;
        }
    }

    __device__ __forceinline__ float at(u32 i) const {
        return widen(PARENT == F32 ? words[i] : words[i / 2] >> i % 2 * 16 & 0xffffu, PARENT);
    }
};

// What a launch finds out, besides what it writes: as many open entries as there is room for.
struct Open { u32 part, index, bits; };
struct Report {
    u32 found, not_finite;
    Open open[1];
};

// Where merged elements go, and what is found out.
struct Output {
    u64 address;
    Report *report; // 0: nowhere
    u32 count;
    u32 type; // to which they are rounded before they become elements
    u32 first; // where the first of them goes, in elements
};

__device__ __forceinline__ void store(const Output &out, u64 i, float x) {
    i += out.first;
    u32 bits = narrow(x, out.type);
    float rounded = widen(bits, out.type);
    if ((float_bits(rounded) & 0x7f800000u) == 0x7f800000u && out.report) out.report->not_finite = 1;
    if (out.type != ELEMENT) bits = narrow(rounded, ELEMENT);
    if (ELEMENT == F32) ((u32 *)out.address)[i] = bits;
    else ((u16 *)out.address)[i] = (u16)bits;
}

// As of magnitude.rs: larger magnitudes are kept, and equal ones up to index `last`.
struct Cut { u32 bits, last; };
__device__ __forceinline__ u32 least(Cut cut, u32 i) { return cut.bits + (i > cut.last); }

// A cut that is known but for a few entries.
struct Bracket { Cut sure, maybe; };

// A model of a sum: entries of its task vector inside `outer` and outside `inner` stay, those that a random number lets stay, or that
// have a bit among `marks`, where that is not 0; or all are multiplied with `factors`, where that is not 0.
struct Part {
    u64 address;
    u64 key, threshold, marks;
    const float *factors;
    Bracket outer, inner;
    const float *scale_at; // 0: it is `scale`
    float scale, weight;

    __device__ __forceinline__ float scale_now() const { return scale_at ? *scale_at : scale; }
};

template <u32 PARTS> struct Sum {
    Output out;
    u64 base;
    u32 models;
    u32 elect, normalize;
    float total, lambda;
    u32 is_masked;
    u32 room; // for open entries
    Part parts[PARTS];
};

// Magnitudes that stay, and those whose fate is open, at one index.
struct Window { u32 outer, inner, maybe_outer, maybe_inner; };

__device__ __forceinline__ Window window(const Part &part, u32 i) {
    return {least(part.outer.sure, i), least(part.inner.sure, i), least(part.outer.maybe, i), least(part.inner.maybe, i)};
}

// As of random.rs: SplitMix64.
__device__ __forceinline__ u32 drawn(u64 key, u32 i) {
    u64 z = key + ((u64)i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (u32)((z ^ z >> 31) >> 32);
}

__device__ __forceinline__ bool stays(const Part &part, Window w, u32 magnitude, u32 i, u32 is_masked) {
    if (magnitude < w.outer || magnitude >= w.inner) return false;
    if (!is_masked) return true;
    if (part.marks) return ((const u32 *)part.marks)[i / 32] >> i % 32 & 1;
    return part.threshold >> 32 || drawn(part.key, i) < part.threshold;
}

// What the element x of model k adds to a sum over b.
template <u32 PARTS> __device__ __forceinline__ float delta(
    const Sum<PARTS> &sum, u32 k, Window w, float scale, float x, float b, u32 i
) {
    float tau = x - b;
    float kept = stays(sum.parts[k], w, float_bits(tau) & 0x7fffffffu, i, sum.is_masked) ? tau : 0.0f;
    if (sum.is_masked && sum.parts[k].factors) kept = tau * sum.parts[k].factors[i];
    return kept * scale * sum.parts[k].weight;
}

// Reports it where its fate is open.
template <u32 PARTS> __device__ __forceinline__ void note(const Sum<PARTS> &sum, u32 k, Window w, float x, float b, u32 i) {
    u32 magnitude = float_bits(x - b) & 0x7fffffffu;
    bool open = (magnitude >= w.maybe_outer && magnitude < w.outer) || (magnitude >= w.maybe_inner && magnitude < w.inner);
    if (!open) return;
    u32 at = atomicAdd(&sum.out.report->found, 1u);
    if (at < sum.room) sum.out.report->open[at] = {k, i, magnitude};
}

// The deltas that have the sign of all, as a sum, and their weights.
struct Elected {
    u32 negative;
    float merged, divisor;

    __device__ __forceinline__ void begin(float all) {
        negative = all < 0.0f ? 0x80000000u : 0u;
        merged = divisor = 0.0f;
    }

    __device__ __forceinline__ void add(float delta, float weight) {
        // The elected sign is made +. A zero has no sign; a NaN agrees, so that it is not lost.
        float along = bits_float(float_bits(delta) ^ negative);
        bool disagrees = along <= 0.0f;
        merged += disagrees ? 0.0f : along;
        divisor += disagrees ? 0.0f : weight;
    }

    __device__ __forceinline__ void end() {
        merged = bits_float(float_bits(merged) ^ negative);
        divisor = divisor == 0.0f ? 1.0f : divisor;
    }
};

template <u32 PARTS> __device__ __forceinline__ void finish(
    const Sum<PARTS> &sum, u32 i, float b, float merged, float divisor
) {
    if (sum.normalize) merged /= divisor;
    store(sum.out, i, b + merged * sum.lambda);
}

// Every model's elements stay in registers.
extern "C" __global__ void sum(const Sum<MOST> sum) {
    u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * GROUP;
    if (first >= sum.out.count) return;
    u32 count = min(sum.out.count - first, (u32)GROUP);
    Group base, models[MOST];
    Window windows[MOST];
    float scales[MOST];
    base.read(sum.base, first, count);
    bool moves = false; // within the group
#pragma unroll
    for (u32 k = 0; k < MOST; k++) {
        if (k >= sum.models) break;
        models[k].read(sum.parts[k].address, first, count);
        windows[k] = window(sum.parts[k], first);
        scales[k] = sum.parts[k].scale_now();
        Window end = window(sum.parts[k], first + count - 1);
        moves |= end.outer != windows[k].outer || end.inner != windows[k].inner;
        moves |= end.maybe_outer != windows[k].maybe_outer || end.maybe_inner != windows[k].maybe_inner;
    }
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i >= count) break;
        float b = base.at(i), deltas[MOST], all = 0.0f;
#pragma unroll
        for (u32 k = 0; k < MOST; k++) {
            if (k >= sum.models) break;
            Window w = moves ? window(sum.parts[k], first + i) : windows[k];
            note(sum, k, w, models[k].at(i), b, first + i);
            deltas[k] = delta(sum, k, w, scales[k], models[k].at(i), b, first + i);
            all += deltas[k];
        }
        float merged = all, divisor = sum.total;
        if (sum.elect) {
            Elected elected;
            elected.begin(all);
#pragma unroll
            for (u32 k = 0; k < MOST; k++) {
                if (k >= sum.models) break;
                elected.add(deltas[k], sum.parts[k].weight);
            }
            elected.end();
            merged = elected.merged, divisor = elected.divisor;
        }
        finish(sum, first + i, b, merged, divisor);
    }
}

// Calls `with` with the models of a sum and their deltas of a group's elements, one model after the other.
template <typename With>
__device__ __forceinline__ void for_each_delta(const Sum<MOST_MANY> &sum, u32 first, u32 count, const Group &base, With with) {
    Group model;
#pragma unroll 1
    for (u32 k = 0; k < sum.models; k++) {
        model.read(sum.parts[k].address, first, count);
        float scale = sum.parts[k].scale_now();
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            if (i >= count) break;
            Window w = window(sum.parts[k], first + i);
            with(k, i, w, model.at(i), delta(sum, k, w, scale, model.at(i), base.at(i), first + i));
        }
    }
}

// Where a sign is elected, each model is read a second time.
extern "C" __global__ void sum_many(const Sum<MOST_MANY> sum) {
    u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * GROUP;
    if (first >= sum.out.count) return;
    u32 count = min(sum.out.count - first, (u32)GROUP);
    Group base;
    base.read(sum.base, first, count);
    float all[GROUP];
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) all[i] = 0.0f;
    for_each_delta(sum, first, count, base, [&](u32 k, u32 i, Window w, float x, float delta) {
        note(sum, k, w, x, base.at(i), first + i);
        all[i] += delta;
    });
    Elected elected[GROUP];
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) elected[i].begin(all[i]);
    if (sum.elect)
        for_each_delta(sum, first, count, base, [&](u32 k, u32 i, Window, float, float delta) {
            elected[i].add(delta, sum.parts[k].weight);
        });
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i >= count) break;
        elected[i].end();
        float merged = sum.elect ? elected[i].merged : all[i], divisor = sum.elect ? elected[i].divisor : sum.total;
        finish(sum, first + i, base.at(i), merged, divisor);
    }
}

// What a cut left open, once it is known: some elements anew.
#define PATCHED 128
struct Patch {
    Output out;
    u32 places[PATCHED];
    float values[PATCHED];
};

extern "C" __global__ void patch(const Patch patch) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < patch.out.count) store(patch.out, patch.places[i], patch.values[i]);
}

// A sum of whole tensors.
struct Mix {
    Output out;
    u64 models[MOST_MIXED];
    float weights[MOST_MIXED];
    u32 count;
    u32 from_zero; // the first is added to 0, which makes a difference to -0
    u32 divides;
    float total;
};

extern "C" __global__ void mix(const Mix mix) {
    u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * GROUP;
    if (first >= mix.out.count) return;
    u32 count = min(mix.out.count - first, (u32)GROUP);
    float sums[GROUP];
    for (u32 k = 0; k < mix.count; k++) {
        Group model;
        model.read(mix.models[k], first, count);
        float weight = mix.weights[k];
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            float product = weight * model.at(i);
            sums[i] = k == 0 ? (mix.from_zero ? 0.0f + product : product) : sums[i] + product;
        }
    }
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i >= count) break;
        store(mix.out, first + i, mix.divides ? sums[i] / mix.total : sums[i]);
    }
}

// The sum of |kept tau| over each CHUNK elements of one model, in double and in the order of `sum_abs` in view.rs: LANES sums side by
// side, then these, then what is left. LANES threads for each chunk, 256 a block.
#define CHUNK 2048
#define LANES 16
struct Length {
    u64 base;
    double *sums;
    Part part;
    u32 count;
    u32 is_masked;
};

__device__ __forceinline__ float element_at(u64 address, u32 i) {
    return widen(PARENT == F32 ? ((const u32 *)address)[i] : ((const u16 *)address)[i], PARENT);
}

__device__ __forceinline__ u32 magnitude_at(u64 model, u64 base, u32 i) {
    return float_bits(element_at(model, i) - element_at(base, i)) & 0x7fffffffu;
}

__device__ __forceinline__ double kept_magnitude(const Length &of, u32 i) {
    u32 magnitude = magnitude_at(of.part.address, of.base, i);
    return stays(of.part, window(of.part, i), magnitude, i, of.is_masked) ? (double)bits_float(magnitude) : 0.0;
}

extern "C" __global__ void length(const Length of) {
    __shared__ double lanes[256];
    u32 chunk = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, lane = threadIdx.x % LANES;
    u64 start = (u64)chunk * CHUNK;
    u32 from = start < of.count ? (u32)start : of.count, len = min(of.count - from, (u32)CHUNK), whole = len / LANES * LANES;
    double own = 0.0;
    for (u32 i = lane; i < whole; i += LANES) own += kept_magnitude(of, from + i);
    lanes[threadIdx.x] = own;
    __syncthreads();
    if (lane > 0 || len == 0) return;
    double sum = 0.0, rest = 0.0;
    for (u32 i = 0; i < LANES; i++) sum += lanes[threadIdx.x + i];
    for (u32 i = whole; i < len; i++) rest += kept_magnitude(of, from + i);
    of.sums[chunk] = sum + rest;
}

// The scale that gives what is kept its length again, as of task_sum.rs: the chunks' sums are added in their order. One block.
struct Restore {
    const double *sums;
    float *scale;
    double before;
    u32 count;
};

extern "C" __global__ void restore(const Restore of) {
    __shared__ double some[256];
    double after = 0.0;
    for (u32 first = 0; first < of.count; first += 256) {
        u32 count = min(of.count - first, 256u);
        __syncthreads();
        if (threadIdx.x < count) some[threadIdx.x] = of.sums[first + threadIdx.x];
        __syncthreads();
        for (u32 i = 0; threadIdx.x == 0 && i < count; i++) after += some[i];
    }
    if (threadIdx.x == 0) *of.scale = of.before < 1e-7 || after < 1e-7 ? 1.0f : (float)(of.before / after);
}

// Memory that is made zero, 4 bytes a thread.
struct Clear {
    u64 address;
    u32 words;
};

extern "C" __global__ void clear(const Clear clear) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < clear.words) ((u32 *)clear.address)[i] = 0;
}

// Brings words together for the host.
struct Fetch {
    u64 address;
    u32 words;
};

extern "C" __global__ void fetch(const Fetch fetch, u32 *to) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < fetch.words) to[i] = ((const u32 *)fetch.address)[i];
}

// DELLA's choice, as of della.rs: a bit among `marks`, which are zero before, for each entry of a task vector that stays. One block of
// THREADS a row. As there, bins by magnitude say between which ranks an entry lies, which nearly always decides whether its random
// number is below its rank's threshold; the ranks of the others are counted. Which bins these are makes no difference to the bits.
#define THREADS 256
#define BINS 2048
#define BINS_EACH (BINS / THREADS)
// The bins end at this multiple of the mean.
#define MEANS 4.0f
// Entries whose ranks are counted together, from as many that are looked at; so many of them at a time.
#define WAITING 1024
#define AT_A_TIME 4

struct Ranks {
    u64 base, model, marks, key;
    double density, epsilon;
    u32 width;
    u32 first; // of the rows' elements in the tensor, where they are some of its rows
    float *factors;
    u32 *order;
};

__device__ __forceinline__ double probability_of(const Ranks &of, u32 rank) {
    double height = of.width > 1 ? (double)rank / (double)(of.width - 1) : 0.5;
    return of.density - of.epsilon + height * 2.0 * of.epsilon;
}

__device__ __forceinline__ u64 threshold_of(double probability) {
    probability = probability < 0.0 ? 0.0 : probability > 1.0 ? 1.0 : probability;
    return (u64)round(probability * 4294967296.0);
}

__device__ __forceinline__ u64 threshold_of(const Ranks &of, u32 rank) { return threshold_of(probability_of(of, rank)); }

// No lower one for a larger magnitude, whatever the scale; a NaN is in the last, with all others then.
__device__ __forceinline__ u32 bin_of(u32 magnitude, float scale) {
    float place = bits_float(magnitude) * scale;
    return place < (float)(BINS - 1) ? (u32)place : BINS - 1;
}

// The bins that are multiplied with: as many as end at MEANS times the mean of the row's magnitudes.
__device__ __forceinline__ float scale_of(const Ranks &of, u32 start) {
    __shared__ float sums[THREADS];
    float own = 0.0f;
    for (u32 i = threadIdx.x; i < of.width; i += THREADS) own += bits_float(magnitude_at(of.model, of.base, start + i));
    sums[threadIdx.x] = own;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    return (float)BINS / (MEANS * (sums[0] / (float)of.width));
}

// How many entries of a row are in each bin.
__device__ __forceinline__ void count_bins(const Ranks &of, u32 start, float scale, u32 *bins) {
    for (u32 bin = threadIdx.x; bin < BINS; bin += THREADS) bins[bin] = 0;
    __syncthreads();
    for (u32 i = start + threadIdx.x; i < start + of.width; i += THREADS)
        atomicAdd(&bins[bin_of(magnitude_at(of.model, of.base, i), scale)], 1u);
    __syncthreads();
}

// How many entries are in the bins before this thread's BINS_EACH.
__device__ __forceinline__ u32 entries_before(const u32 *bins) {
    __shared__ u32 totals[THREADS];
    u32 t = threadIdx.x, own = 0;
    for (u32 i = 0; i < BINS_EACH; i++) own += bins[t * BINS_EACH + i];
    totals[t] = own;
    for (u32 step = 1; step < THREADS; step *= 2) {
        __syncthreads();
        u32 before = t >= step ? totals[t - step] : 0;
        __syncthreads();
        totals[t] += before;
    }
    return totals[t] - own;
}

// Makes of the number of entries in each bin (`low`) what decides about them: a number below `low` surely stays, one above `high`
// surely goes. A threshold of 2^32 is one less here, which leaves the largest number open.
__device__ __forceinline__ void bound(const Ranks &of, u32 *low, u32 *high) {
    u32 t = threadIdx.x, rank = entries_before(low);
    for (u32 bin = t * BINS_EACH; bin < (t + 1) * BINS_EACH; bin++) {
        u32 entries = low[bin];
        if (entries == 0) continue;
        u64 least = threshold_of(of, rank), most = threshold_of(of, rank + entries - 1);
        low[bin] = least >> 32 ? 0xffffffffu : (u32)least;
        high[bin] = most >> 32 ? 0xffffffffu : (u32)most;
        rank += entries;
    }
    __syncthreads();
}

// Entries whose ranks are wanted.
struct Waiting {
    u32 count, indices[WAITING], ranks[WAITING];
};

// Counts how many come before each of them in their row: those of a smaller magnitude, and equal ones of a lower index.
__device__ __forceinline__ void settle(const Ranks &of, u32 start, Waiting &waiting) {
    u32 t = threadIdx.x;
    __syncthreads();
    u32 count = waiting.count;
    for (u32 first = 0; first < count; first += AT_A_TIME) {
        u32 indices[AT_A_TIME], bits[AT_A_TIME], below[AT_A_TIME];
#pragma unroll
        for (u32 k = 0; k < AT_A_TIME; k++) {
            indices[k] = waiting.indices[min(first + k, count - 1)];
            bits[k] = magnitude_at(of.model, of.base, indices[k]);
            below[k] = 0;
        }
        for (u32 i = start + t; i < start + of.width; i += THREADS) {
            u32 magnitude = magnitude_at(of.model, of.base, i);
#pragma unroll
            for (u32 k = 0; k < AT_A_TIME; k++) below[k] += magnitude < bits[k] + (i < indices[k]);
        }
#pragma unroll
        for (u32 k = 0; k < AT_A_TIME; k++) {
            for (u32 lanes = 16; lanes > 0; lanes /= 2) below[k] += __shfl_xor_sync(0xffffffffu, below[k], lanes);
            if (t % 32 == 0 && first + k < count) atomicAdd(&waiting.ranks[first + k], below[k]);
        }
    }
    __syncthreads();
    for (u32 k = t; k < count; k += THREADS) {
        u32 i = waiting.indices[k];
        if (drawn(of.key, i) < threshold_of(of, waiting.ranks[k])) atomicOr((u32 *)of.marks + i / 32, 1u << i % 32);
        waiting.ranks[k] = 0;
    }
    if (t == 0) waiting.count = 0;
    __syncthreads();
}

extern "C" __global__ void rank(const Ranks of) {
    __shared__ u32 low[BINS], high[BINS];
    __shared__ Waiting waiting;
    u32 t = threadIdx.x, start = blockIdx.x * of.width, end = start + of.width;
    for (u32 k = t; k < WAITING; k += THREADS) waiting.ranks[k] = 0;
    if (t == 0) waiting.count = 0;
    float scale = scale_of(of, start);
    count_bins(of, start, scale, low);
    bound(of, low, high);
    // Whole words of marks a warp, whose first and last may be another row's too.
    for (u32 from = start / 32 * 32, steps = 0; from < end; from += THREADS) {
        u32 i = from + t;
        bool surely = false;
        if (i >= start && i < end) {
            u32 magnitude = magnitude_at(of.model, of.base, i), bin = bin_of(magnitude, scale), number = drawn(of.key, i);
            surely = number < low[bin];
            // Nothing hangs on what becomes of a zero.
            if (!surely && number <= high[bin] && magnitude > 0) waiting.indices[atomicAdd(&waiting.count, 1u)] = i;
        }
        u32 word = __ballot_sync(0xffffffffu, surely);
        if (t % 32 == 0 && word) atomicOr((u32 *)of.marks + i / 32, word);
        if (++steps % (WAITING / THREADS) == 0) settle(of, start, waiting);
    }
    settle(of, start, waiting);
}

// For each entry one over its probability where it stays, and 0 where it goes: all ranks are wanted, so entries are sorted into their
// bins, and each looks at those beside it. One block a row.
extern "C" __global__ void divide(const Ranks of) {
    __shared__ u32 ends[BINS], next[BINS];
    u32 t = threadIdx.x, start = blockIdx.x * of.width, end = start + of.width;
    float scale = scale_of(of, start);
    count_bins(of, start, scale, ends);
    u32 rank = entries_before(ends);
    for (u32 bin = t * BINS_EACH; bin < (t + 1) * BINS_EACH; bin++) {
        next[bin] = rank;
        rank += ends[bin];
        ends[bin] = rank;
    }
    __syncthreads();
    for (u32 i = start + t; i < end; i += THREADS) {
        u32 bin = bin_of(magnitude_at(of.model, of.base, i), scale);
        of.order[start + atomicAdd(&next[bin], 1u)] = i;
    }
    __syncthreads();
    for (u32 i = start + t; i < end; i += THREADS) {
        u32 magnitude = magnitude_at(of.model, of.base, i), bin = bin_of(magnitude, scale);
        u32 first = bin > 0 ? ends[bin - 1] : 0, rank = first;
        // Nothing hangs on what becomes of a zero.
        for (u32 k = first; magnitude > 0 && k < ends[bin]; k++) {
            u32 other = of.order[start + k];
            rank += magnitude_at(of.model, of.base, other) < magnitude + (other < i);
        }
        double probability = probability_of(of, rank);
        of.factors[i] = drawn(of.key, of.first + i) < threshold_of(probability) ? (float)(1.0 / probability) : 0.0f;
    }
}
