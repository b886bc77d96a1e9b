"""The kernels of a mixture of experts alone, on a GPU (or in tests/emulator): right, and how fast beside what the card can do.

    python tests/gpu/experts.py [--small]

Compiles crates/engine/src/cuda/kernels.cu and experts.cu with NVRTC, as the program does, and launches them through the driver: nothing
but numpy is needed. Compares with the same in f32; then prints, at the shapes of Qwen3-30B-A3B and Mixtral 8x7B, what the products of a
layer take for one row to thousands: for few rows as the rate at which weights are read, for many as operations. Ends with 1 if a number is
wrong.
"""
import ctypes, pathlib, sys
import numpy as np
from card import bits, compiled, download, floats, launch, timed, upload

CUDA = pathlib.Path(__file__).resolve().parents[2] / "crates/engine/src/cuda"
small = "--small" in sys.argv
u32, f32 = ctypes.c_uint32, ctypes.c_float
NAMES = ["route", "sort_by_expert", "few_gated_mma", "few_down_mma", "many_gated_mma", "many_down_mma", "add_experts"]


class Routing(ctypes.Structure):
    _fields_ = [(n, u32) for n in ("per_token", "router", "groups", "best", "normalised")] + [(n, f32) for n in ("floor", "scale", "jitter")]


class Product(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("x", "tiles", "order", "weight", "bias", "out")] + [
        (n, u32) for n in ("per_token", "inputs", "outputs", "kind")] + [("alpha", f32), ("limit", f32)]


def weights(hidden, width, experts):
    """Gates and what they let through, and the way back, of all experts; and where they lie."""
    random = np.random.default_rng(hidden)
    # A million numbers, over and over: random ones take their time.
    own = lambda *shape: np.resize(bits(random.standard_normal(1_000_003, np.float32) * shape[-1] ** -0.5), shape)
    made = own(experts, 2 * width, hidden), own(experts, hidden, width)
    return *made, *map(upload, made)


def layer(rows, k, gate_up, down, gate_up_there, down_there):
    """A layer for so many rows: its steps by name, where the results lie, and what is right for a row."""
    experts, hidden, width = down.shape
    functions = compiled(CUDA / "kernels.cu", NAMES, "-DELEMENT=1", "-DMMA=1", "-DTENSOR_CORES=0", "-DDIM=64", "-DSOFTCAP=0",
                         f"-DEXPERTS={experts}", behind=CUDA / "experts.cu")
    random = np.random.default_rng(rows)
    x, logits = bits(random.standard_normal((rows, hidden), np.float32)), random.standard_normal((rows, experts), np.float32)
    pairs, few = rows * k, rows * k <= 8 * experts
    tile, outputs, name = (8, 16, "few") if few else (64, 64, "many")
    most = pairs // tile + min(experts, pairs)
    empty = lambda count, dtype: upload(np.zeros(count, dtype))
    chosen, shares, order, tiles = empty(pairs, np.uint32), empty(pairs, np.float32), empty(pairs, np.uint32), empty(3 * most, np.uint32)
    inner, results, branch = empty(pairs * width, np.uint16), empty(pairs * hidden, np.uint16), empty(rows * hidden, np.float32)
    none, own = ctypes.c_uint64(0), upload(logits)
    gated = Product(upload(x), tiles, order, gate_up_there, 0, inner, k, hidden, width, 0, 0, 0)
    back = Product(inner, tiles, order, down_there, 0, results, k, width, hidden, 0, 0, 0)
    steps = {
        "route": lambda: launch(functions["route"], (rows, 1), 32, own, none, none, none, none, Routing(k, 0, 1, 1, 1, 0, 1, 0), chosen, shares),
        "sort": lambda: launch(functions["sort_by_expert"], (experts, 1), 256, chosen, u32(pairs), u32(tile), u32(most), order, tiles),
        "gated": lambda: launch(functions[f"{name}_gated_mma"], (most, -(-width // outputs)), 128, gated),
        "down": lambda: launch(functions[f"{name}_down_mma"], (most, -(-hidden // (2 * outputs))), 128, back),
        "add": lambda: launch(functions["add_experts"], (rows, 1), 256, chosen, shares, results, u32(k), none, none, u32(hidden), branch),
    }

    def right(row):
        best = np.argsort(-logits[row], kind="stable")[:k]
        share = np.exp(logits[row, best] - logits[row].max())
        sum = np.zeros(hidden, np.float32)
        for expert, weight in zip(best, share / share.sum()):
            gate, up = np.split(floats(gate_up[expert]) @ floats(x[row]), 2)
            sum += weight * (floats(down[expert]) @ (gate / (1 + np.exp(-gate)) * up))
        return sum

    return steps, branch, right, chosen


bad = 0
for rows, hidden, width, experts, k in ((3, 552, 136, 8, 2), (40, 64, 72, 16, 3), (70, 64, 40, 4, 2)):
    steps, branch, right, _ = layer(rows, k, *weights(hidden, width, experts))
    for step in steps.values():
        step()
    got = download(branch, (rows, hidden), np.float32)
    wanted = np.array([right(row) for row in range(rows)])
    far = np.abs(got - wanted).max() / np.abs(wanted).max()
    bad += not far < 1.5e-2
    print(f"{rows} rows, {experts} experts: largest error {far:.1e} of the largest", "" if far < 1.5e-2 else "WRONG", flush=True)

if not small:
    for name, hidden, width, experts, k in (("Qwen3-30B-A3B", 2048, 768, 128, 8), ("Mixtral 8x7B", 4096, 14336, 8, 2)):
        made = weights(hidden, width, experts)
        for rows in (1, 8, 64, 256, 4096):
            steps, _, _, chosen = layer(rows, k, *made)
            for step in steps.values():
                step()
            used = len(np.unique(download(chosen, rows * k, np.uint32)))
            ms = {step: timed(work) for step, work in steps.items()}
            if None in ms.values():
                sys.exit("no clock")
            products = ms["gated"] + ms["down"]
            read, done = used * 3 * width * hidden * 2 / products / 1e6, rows * k * 6 * width * hidden / products / 1e9
            print(f"{name}, {rows} rows:", ", ".join(f"{step} {1000 * t:.0f} us" for step, t in ms.items()),
                  f"; products: {read:.0f} GB/s, {done:.1f} TFLOP/s", flush=True)
sys.exit(bad > 0)
