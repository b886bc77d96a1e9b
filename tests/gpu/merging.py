"""Merging on a device, the kernel alone (or in tests/emulator): right to the bit, and how fast beside a copy.

    python tests/gpu/merging.py [--small]

Compiles crates/merge/src/device.cu with NVRTC, as the program does. TIES of a base and two experts in bf16 is held against numpy, then
timed over all matrices of a 1.5B and a 7B model beside a copy of the device's memory. Ends with 1 if a bit is wrong.
"""
import ctypes, pathlib, sys
import numpy as np
from card import bits, compiled, cuda, download, floats, launch, memory, ok, stream, timed, upload

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "crates/merge/src/device.cu"
small = "--small" in sys.argv
u32, u64, f32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_float
ALL = 0xFFFFFFFF


class Output(ctypes.Structure):
    _fields_ = [("address", u64), ("count", u32), ("type", u32)]


class Part(ctypes.Structure):
    _fields_ = [("address", u64), ("key", u64), ("threshold", u64), ("outer", u32 * 4), ("inner", u32 * 4),
                ("scale", f32), ("weight", f32)]


class Sum(ctypes.Structure):
    _fields_ = [("out", Output), ("base", u64), ("parts", Part * 4), ("models", u32), ("elect", u32), ("normalize", u32),
                ("total", f32), ("lambda_", f32), ("is_random", u32)]


def ties(out, base, experts, cuts, weights, count):
    """As src/device.rs asks for it: entries from a magnitude on stay, up to a place those of that magnitude."""
    job = Sum(Output(out, count, 1), base, models=len(experts), elect=1, normalize=1, total=sum(weights), lambda_=1.1)
    for part, expert, (magnitude, last), weight in zip(job.parts, experts, cuts, weights):
        outer = (u32 * 4)(magnitude, last, magnitude, last)
        part.__init__(expert, 0, 1 << 32, outer, (u32 * 4)(ALL, ALL, ALL, ALL), 1.0, weight)
    return job


def right(base, experts, cuts, weights):
    base, deltas = floats(base), []
    for expert, (magnitude, last), weight in zip(experts, cuts, weights):
        tau = floats(expert) - base
        size, place = tau.view(np.uint32) & 0x7FFFFFFF, np.arange(len(tau))
        kept = (size > magnitude) | ((size == magnitude) & (place <= last))
        deltas.append(np.where(kept, tau, np.float32(0)) * np.float32(weight))
    sign = np.where(sum(deltas, np.zeros_like(base)) < 0, np.float32(-1), np.float32(1))
    merged, divisor = np.zeros_like(base), np.zeros_like(base)
    for delta, weight in zip(deltas, weights):
        agrees = ~(delta * sign <= 0)
        merged += np.where(agrees, delta * sign, np.float32(0))
        divisor += np.where(agrees, np.float32(weight), np.float32(0))
    merged = merged * sign / np.where(divisor == 0, np.float32(1), divisor)
    return bits(base + merged * np.float32(1.1))


def blocks(count):
    return -(-count // (8 * 256)), 1


kernel = compiled(SOURCE, ["sum"], "-DPARENT=1", "-DELEMENT=1", "--fmad=false")["sum"]
report = upload(np.zeros(2 + 3 * 128, np.uint32))
random = np.random.default_rng(1)
count, weights = 100_003, (0.7, 0.45)
base = bits(random.standard_normal(count, np.float32))
experts = [bits(floats(base) + np.round(random.standard_normal(count, np.float32) * 8) / 64) for _ in range(2)]
cuts = []
for expert in experts:
    size = (floats(expert) - floats(base)).view(np.uint32) & 0x7FFFFFFF
    tied = np.flatnonzero(size == np.sort(size)[count // 2])
    cuts.append((int(size[tied[0]]), int(tied[len(tied) // 3])))
out = memory(2 * count)
launch(kernel, blocks(count), 256, ties(out.value, upload(base).value, [upload(e).value for e in experts], cuts, weights, count), report)
wrong = int((download(out, count, np.uint16) != right(base, experts, cuts, weights)).sum())
print(f"TIES of {count} elements: {wrong} are wrong", flush=True)

if not small:
    copied = 2 << 30
    a, b = memory(copied), memory(copied)
    ms = timed(lambda: ok(cuda.cuMemcpyDtoDAsync_v2(b, a, ctypes.c_size_t(copied), stream), "a copy"))
    rate = 2 * copied / ms / 1e6 if ms else None
    print(f"copy: {rate:.0f} GB/s" if rate else "no clock", flush=True)
    ok(cuda.cuMemFree_v2(a), "memory"), ok(cuda.cuMemFree_v2(b), "memory")
    for name, hidden, inner, keys, vocab, heads in (("1.5B", 1536, 8960, 256, 151936, 1), ("7B", 3584, 18944, 512, 152064, 2)):
        layer = [hidden * hidden, hidden * keys, hidden * keys, hidden * hidden] + 3 * [hidden * inner]
        shapes = heads * [vocab * hidden] + 28 * layer
        starts = np.cumsum([0] + shapes)
        lie = [memory(2 * int(starts[-1])) for _ in range(4)]
        # Every bit set is no number; zeros are merged as fast as any.
        for place in lie:
            ok(cuda.cuMemsetD8Async(place, 0, ctypes.c_size_t(2 * int(starts[-1])), stream), "clearing memory")
        jobs = [(blocks(n), ties(*[lie[0].value + 2 * int(at), lie[1].value + 2 * int(at)],
                                 [place.value + 2 * int(at) for place in lie[2:]], [(1 << 20, n // 2)] * 2, weights, n))
                for at, n in zip(starts, shapes)]
        ms = timed(lambda: [launch(kernel, grid, 256, job, report) for grid, job in jobs])
        moved = 8 * int(starts[-1])
        share = f"{moved / ms / 1e6:.0f} GB/s, {100 * moved / ms / 1e6 / rate:.0f} % of a copy" if ms else "no clock"
        print(f"{name}: TIES of a base and two experts: {ms or 0:.1f} ms, {share}", flush=True)
        for place in lie:
            ok(cuda.cuMemFree_v2(place), "memory")
sys.exit(wrong > 0)
