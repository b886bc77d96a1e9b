"""heterosis merge beside mergekit-yaml: whole-process wall time and peak resident memory, on the same files.

    pip install mergekit==0.1.5
    cargo build --release && cargo run --release --example random_checkpoint -- MODELS
    python merge_speed.py MODELS [--runs 3] [--methods ties linear slerp] [--heterosis target/release/heterosis]

MODELS holds base, a and b. Both programs are run alternately, after one reading of the files; medians are printed. Also
printed: what it takes to read both parents and write one child with plain reads and writes, synced to disk as heterosis does.
"""
import argparse, os, resource, shutil, statistics, subprocess, sys, tempfile, time

RECIPES = {
    "ties": """merge_method: ties
base_model: {m}/base
models:
- model: {m}/a
  parameters: {{weight: 0.7, density: 0.5}}
- model: {m}/b
  parameters: {{weight: 0.5, density: 0.3}}
dtype: bfloat16
""",
    "linear": """merge_method: linear
models:
- model: {m}/a
  parameters: {{weight: 0.6}}
- model: {m}/b
  parameters: {{weight: 0.4}}
dtype: bfloat16
""",
    "slerp": """merge_method: slerp
base_model: {m}/a
models:
- model: {m}/a
- model: {m}/b
parameters:
  t: 0.4
dtype: bfloat16
""",
}


def timed(command):
    """Wall seconds, peak resident memory (MB) and processor seconds of a whole process."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        sys.exit(f"{command} failed:\n{stderr[-2000:]}")
    return seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def plain(parents, out):
    """Reads the parents, writes as many bytes as one of them has, syncs."""
    start = time.monotonic()
    buffer = bytearray(8 << 20)
    for parent in parents:
        with open(f"{parent}/model.safetensors", "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = os.path.getsize(f"{parents[0]}/model.safetensors")
    with open(out, "wb", buffering=0) as file:
        while left > 0:
            left -= file.write(memoryview(buffer)[: min(left, len(buffer))])
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    os.remove(out)
    return seconds


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("models")
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--methods", nargs="+", default=list(RECIPES))
    ap.add_argument("--heterosis", default="target/release/heterosis")
    ap.add_argument("--mergekit", default="mergekit-yaml")
    ap.add_argument("--skip-mergekit", action="store_true")
    args = ap.parse_args()
    models = os.path.abspath(args.models)
    work = tempfile.mkdtemp(prefix="merge-speed-", dir=models)
    try:
        for name in ["base", "a", "b"]:
            plain([f"{models}/{name}"], f"{work}/warm-up")
        for method in args.methods:
            recipe = f"{work}/{method}.yaml"
            with open(recipe, "w") as file:
                file.write(RECIPES[method].format(m=models))
            ours, theirs, disk = [], [], []
            for _ in range(args.runs):
                for results, command in [(ours, [args.heterosis, "merge", recipe, f"{work}/out"]),
                                         (theirs, [args.mergekit, recipe, f"{work}/out"])]:
                    if results is theirs and args.skip_mergekit:
                        continue
                    results.append(timed(command))
                    shutil.rmtree(f"{work}/out")
                disk.append(plain([f"{models}/a", f"{models}/b"], f"{work}/plain"))
            median = lambda results, k: statistics.median(r[k] for r in results)
            side = lambda results: f"{median(results, 0):7.2f} s ({median(results, 2):.2f} s of the processor) {median(results, 1):6.0f} MB"
            line = f"{method:8} heterosis {side(ours)}"
            if theirs:
                line += (f"   mergekit {side(theirs)}"
                         f"   {median(theirs, 0) / median(ours, 0):5.1f}x faster ({median(theirs, 2) / median(ours, 2):.1f}x by the processor), {median(ours, 1) / median(theirs, 1):.2f} of the memory")
            line += f"   plain read of two and write of one {statistics.median(disk):.2f} s"
            print(line, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
