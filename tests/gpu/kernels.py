"""The attention kernels alone, on a GPU (or in tests/emulator): right, and how fast beside what the card can do.

    python tests/gpu/kernels.py [--small]

Compiles crates/engine/src/cuda/kernels.cu with NVRTC, as the program does, and launches it through the driver: nothing but numpy is
needed. Compares with attention in f32 for heads of 64, 96, 128 and 256 dimensions; where torch has a GPU, prints besides what a
decoding step's attention, torch's own attention on the same keys, its matrix products of a 1.5B and a 7B model at 256 rows, and a
copy take. Ends with 1 if a number is wrong.
"""
import ctypes, pathlib, sys
import numpy as np
from card import bits, compiled, download, floats, launch, timed, upload

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "crates/engine/src/cuda/kernels.cu"
BLOCK, STRETCH = 32, 256
small = "--small" in sys.argv


class Shape(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("dim", "q_heads", "kv_heads", "layer", "window", "items")] + [
        ("scale", ctypes.c_float), ("softcap", ctypes.c_float)]


def kernels_for(dim):
    options = ["-DELEMENT=1", "-DMMA=1", "-DTENSOR_CORES=1", f"-DDIM={dim}", "-DSOFTCAP=0"]
    return compiled(SOURCE, ["attend_on_tensor_cores", "combine"], *options)


def decode(dim, q_heads, kv_heads, rows, prefix, own, seed=0):
    """A decoding step: rows that share a prefix and have some keys of their own. Gives how to launch it, and what is right."""
    random = np.random.default_rng(seed)
    group = q_heads // kv_heads
    value = lambda *shape: bits(random.standard_normal(shape, np.float32))
    qkv = value(rows, q_heads + 2 * kv_heads, dim)
    lengths = [own - int(random.integers(0, max(1, own // 3))) for _ in range(rows)]
    parts = [(prefix, range(rows))] + [(n, [r]) for r, n in enumerate(lengths)]
    segments, blocks = [], []
    for n, _ in parts:
        count = -(-n // BLOCK)
        data = value(count, 2 * kv_heads, dim * BLOCK)
        segments.append((data, len(blocks), n))
        blocks += list(range(len(blocks), len(blocks) + count))
    whole = np.concatenate([data for data, _, _ in segments])
    base = upload(whole)
    addresses = np.array([base.value + b * whole[0].nbytes for b in blocks], np.uint64)
    items, entries, lists = [], [], {(r, g): [] for r in range(rows) for g in range(group)}
    for (data, first, n), (_, who) in zip(segments, parts):
        position = 0 if len(who) > 1 or prefix == 0 else prefix
        queries = [(r, g) for r in who for g in range(group)]
        for start in range(0, n, STRETCH):
            tokens = min(STRETCH, n - start)
            for q in range(0, len(queries), 16):
                of_item = queries[q:q + 16]
                items.append((len(entries), len(of_item), first + start // BLOCK, tokens, position + start))
                for r, g in of_item:
                    lists[r, g].append(len(entries))
                    entries.append((r, g, prefix + lengths[r]))
    starts = np.cumsum([0] + [len(lists[r, g]) for r in range(rows) for g in range(group)]).astype(np.uint32)
    flat = np.concatenate([lists[r, g] for r in range(rows) for g in range(group)]).astype(np.uint32)
    shape = Shape(dim, q_heads, kv_heads, 0, 0, len(items), dim ** -0.5, 0.0)
    slots = len(entries) * kv_heads
    args = [upload(qkv), upload(np.array(items, np.uint32)), upload(np.array(entries, np.uint32)), upload(addresses), shape,
            upload(np.zeros((slots, 2), np.float32)), upload(np.zeros((slots, dim), np.float32))]
    out = upload(np.zeros((rows, q_heads, dim), np.uint16))
    finish = [upload(starts), upload(flat), shape, args[5], args[6], ctypes.c_uint64(0), out]

    def step(functions):
        launch(functions["attend_on_tensor_cores"], (-(-len(items) // 4), kv_heads), 128, *args)
        launch(functions["combine"], (rows, q_heads), 32, *finish)

    def right(row, head):
        keys, values = [], []
        for (data, _, n), (_, who) in zip(segments, parts):
            if row in who:
                k = floats(data[:, head // group]).reshape(-1, BLOCK, dim).reshape(-1, dim)
                v = floats(data[:, kv_heads + head // group]).reshape(-1, dim, BLOCK).transpose(0, 2, 1).reshape(-1, dim)
                keys.append(k[:n])
                values.append(v[:n])
        scores = np.concatenate(keys) @ floats(qkv[row, head]) * dim ** -0.5
        weights = np.exp(scores - scores.max())
        return weights @ np.concatenate(values) / weights.sum()

    return step, out, right, (rows, q_heads, dim)


bad = 0
for dim in (64, 96, 128, 256):
    functions = kernels_for(dim)
    step, out, right, shape = decode(dim, 12, 2, 5, 300, 70, seed=dim)
    step(functions)
    got = floats(download(out, shape, np.uint16))
    wanted = np.array([[right(r, h) for h in range(shape[1])] for r in range(shape[0])])
    far = np.abs(got - wanted).max() / np.abs(wanted).max()
    bad += not far < 1e-2
    print(f"heads of {dim}: largest error {far:.1e} of the largest", "" if far < 1e-2 else "WRONG", flush=True)

if not small:
    for name, dim, q_heads, kv_heads in (("1.5B", 128, 12, 2), ("7B", 128, 28, 4)):
        functions = kernels_for(dim)
        step, *_ = decode(dim, q_heads, kv_heads, 250, 800, 220)
        step(functions)
        ms = timed(lambda: step(functions))
        print(f"{name}: attention of a decoding step, one layer, 250 rows, prefix 800, own 220:", f"{ms * 1000:.0f} us" if ms else "no clock", flush=True)
    try:
        import torch
        assert torch.cuda.is_available()
    except Exception as e:
        print("torch has no GPU here:", e)
    else:
        def median(work):
            times = []
            for _ in range(20):
                a, b = torch.cuda.Event(True), torch.cuda.Event(True)
                a.record(); work(); b.record(); b.synchronize()
                times.append(a.elapsed_time(b))
            return sorted(times)[10]
        new = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16)
        x, y = new(1 << 30), new(1 << 30)
        print(f"copy: {4 * 2**30 / median(lambda: y.copy_(x)) / 1e6:.0f} GB/s", flush=True)
        del x, y
        for name, h, kv in (("1.5B", 12, 2), ("7B", 28, 4)):
            q, k, v = new(250, h, 1, 128), new(250, kv, 1020, 128), new(250, kv, 1020, 128)
            ms = median(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))
            print(f"{name}: torch's attention on as many keys, no prefix shared: {ms * 1000:.0f} us")
        for name, shapes in (("1.5B", ((2048, 1536), (1536, 1536), (17920, 1536), (1536, 8960))),
                             ("7B", ((4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944)))):
            total = 0.0
            for o, i in shapes:
                w, x = new(o, i), new(256, i)
                total += median(lambda: x @ w.T)
            print(f"{name}: a layer's four products at 256 rows: {total * 1000:.0f} us")
sys.exit(bad > 0)
