"""transformers' `generate` and heterosis' engine on the same work on one GPU, in turns: random bf16 weights of one shape, 250
prompts of about 120 tokens after a prefix of 800, 200 new tokens each, no question ending early.

    pip install torch transformers
    cargo build --release --example throughput
    python gpu_speed.py [--throughput target/release/examples/throughput] [--rounds 5] [--bandwidth 4300]

`--bandwidth` (GB/s) is what a copy on the device reaches; of it `throughput` says what share a step uses. `--device cpu
--shape tiny --questions 8` tries the script itself.
"""
import argparse, re, statistics, subprocess, time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {  # hidden, inner, layers, heads, key heads, vocabulary, as in examples/throughput.rs
    "tiny": (96, 320, 8, 6, 6, 234),
    "qwen-0.5b": (896, 4864, 24, 14, 2, 151_936),
    "qwen-1.5b": (1536, 8960, 28, 12, 2, 151_936),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--throughput", default="target/release/examples/throughput")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="qwen-1.5b", choices=SHAPES)
    parser.add_argument("--bandwidth", type=int, default=0)
    for name, default in [("questions", 250), ("prefix", 800), ("prompt", 120), ("new", 200), ("rounds", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    hidden, inner, layers, heads, kv_heads, vocab = SHAPES[args.shape]
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv_heads, vocab_size=vocab, max_position_embeddings=8192,
                         tie_word_embeddings=True, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    torch.manual_seed(1)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    with torch.device(args.device):
        model = LlamaForCausalLM(config).to(dtype).eval()
    shared = torch.randint(3, vocab, (1, args.prefix)).expand(args.questions, -1)
    own = torch.randint(3, vocab, (args.questions, args.prompt))
    prompts = torch.cat([shared, own], 1).to(args.device)
    mask = torch.ones_like(prompts)

    def peer():
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=mask, do_sample=False, max_new_tokens=args.new, min_new_tokens=args.new)
            assert out.shape[1] == prompts.shape[1] + args.new
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    words = [args.throughput, args.shape, "--device", args.device]
    for name in ["questions", "prefix", "prompt", "new", "bandwidth"]:
        words += [f"--{name}", str(getattr(args, name))]

    def ours():
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return float(re.search(r"questions in ([0-9.]+) s", text)[1]), text

    if args.device == "cuda":
        print(torch.cuda.get_device_name())
    peer(), ours()  # the first call compiles
    theirs, own_times = [], []
    for _ in range(args.rounds):
        theirs.append(peer())
        seconds, text = ours()
        own_times.append(seconds)
        print(f"transformers {theirs[-1]:.2f} s, heterosis {seconds:.2f} s", flush=True)
    print(text)
    medians = statistics.median(theirs), statistics.median(own_times)
    print(f"medians: transformers {medians[0]:.2f} s, heterosis {medians[1]:.2f} s: {medians[0] / medians[1]:.1f} times")


main()
