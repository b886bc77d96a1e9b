"""Export a run's best child and see whether others make the same of it.

    pip install torch transformers mergekit gguf xllamacpp
    python export.py RUN_DIR [--heterosis PATH] [--questions 40] [--gguf]

(a) transformers loads the exported directory and answers as the journal says the child did, greedily, in f32 on the CPU;
(b) mergekit-yaml runs the exported mergekit_config.yml, and its weights are the export's;
(c) with --gguf, the export as f16 and q8_0 is opened by the gguf package, whose own conversion and quantisation of the exported
    weights must give the same bytes, and by transformers, whose weights and tokens are compared;
(d) with --gguf, and if xllamacpp is installed, llama.cpp runs the f16 file: greedy text beside `heterosis generate`'s.
The exit code is the number of differences.
"""
import argparse, json, os, subprocess, sys, tempfile

from importlib.metadata import version

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


PROMPTS = ["The capital of France is", "Question: Ana has three apples and buys four more. How many?\nAnswer:",
           "¿Cuántas manzanas hay en tres cajas de doce?", "Once upon a time, there was a"]


def weights(folder):
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "pt") as shard:
                tensors.update({name: shard.get_tensor(name).float() for name in shard.keys()})
    return tensors


def journal(run):
    with open(os.path.join(run, "journal.jsonl"), encoding="utf8") as lines:
        return [json.loads(line) for line in lines]


def winner(records):
    selected = [r["best"] for r in records if r["event"] == "selected"]
    scored = [r for r in records if r["event"] == "candidate_scored" and r["origin"] != "parent" and not r.get("eliminated")]
    return selected[-1] if selected else max(scored, key=lambda r: r["fitness"])["id"]


def answers_differ(args, out):
    with open(os.path.join(out, "provenance.json"), encoding="utf8") as file:
        provenance = json.load(file)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    wrong, asked = 0, 0
    rows = [(a["prompt"], a["output"], a["max_new_tokens"], a["stop"]) for a in provenance["first_answers"]]
    rows += [(r["prompt"], r["text"], r["max_new_tokens"], r["stop"]) for r in more_answers(args, out, rows)]
    for prompt, ours, most, stops in rows:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            theirs = model.generate(ids, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        text = tokenizer.decode(theirs[0, ids.shape[1]:], skip_special_tokens=True)
        for stop in stops:
            text = text.split(stop)[0]
        asked += 1
        if text.strip() != ours.strip():
            wrong += 1
            print(f"  transformers: {text!r}\n  heterosis:    {ours!r}")
    print(f"(a) transformers {transformers.__version__}: {asked} answers, {wrong} differences")
    return wrong


def more_answers(args, out, rows):
    """Other questions of the same kind, made of the provenance's by changing their numbers; anything, of a run that
    generated nothing."""
    rows = rows or [(p, "", 24, []) for p in PROMPTS]
    made = []
    for i in range(args.questions):
        prompt, _, most, stops = rows[i % len(rows)]
        digits = [c for c in prompt if c.isdigit()]
        changed = "".join(str((int(c) + i) % 9 + 1) if c.isdigit() else c for c in prompt) if digits else prompt
        made.append({"prompt": changed, "max_new_tokens": most, "stop": stops})
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf8", delete=False) as file:
        file.writelines(json.dumps({"prompt": m["prompt"]}) + "\n" for m in made)
    call = [args.heterosis, "generate", out, "--prompts", file.name, "--max-new-tokens", str(made[0]["max_new_tokens"]), "--json"]
    for stop in made[0]["stop"]:
        call += ["--stop", stop]
    outputs = json.loads(subprocess.run(call, stdout=subprocess.PIPE, check=True).stdout)["outputs"]
    os.unlink(file.name)
    return [{**m, "text": o["text"]} for m, o in zip(made, outputs)]


def names_lead_there(out, folder):
    """Links by which the names of an export's recipe, which has no folders of anybody's machine, lead to its parents."""
    with open(os.path.join(out, "mergekit_config.yml"), encoding="utf8") as file:
        words = {w for line in file for w in line.split("#")[0].replace("model:", " ").split() if not w.endswith(":")}
    with open(os.path.join(out, "provenance.json"), encoding="utf8") as file:
        places = [place for parent in json.load(file)["parents"] for place in parent["model"].split("+")]
    names = {name for word in words for name in word.strip("'\"").split("+")}
    for name in names:
        for place in places:
            if os.path.isabs(place) and place.endswith("/" + name) and not os.path.exists(os.path.join(folder, name)):
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                os.symlink(place, os.path.join(folder, name))


def weights_differ(out):
    with tempfile.TemporaryDirectory() as folder:
        merged = os.path.join(folder, "merged")
        config = os.path.abspath(os.path.join(out, "mergekit_config.yml"))
        names_lead_there(out, folder)
        beside = os.path.join(os.path.dirname(sys.executable), "mergekit-yaml")
        mergekit = beside if os.path.exists(beside) else "mergekit-yaml"
        adapters = ["--lora-merge-cache", os.path.join(folder, "adapters"), "--lora-merge-dtype", "float32"]
        subprocess.run([mergekit, config, merged, "--allow-crimes", *adapters], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours, theirs = weights(out), weights(merged)
    wrong = sorted(set(ours) ^ set(theirs))
    largest, equal = 0.0, 0
    for name in sorted(set(ours) & set(theirs)):
        difference = (ours[name] - theirs[name]).abs().max().item()
        largest = max(largest, difference)
        equal += torch.equal(ours[name], theirs[name])
        if difference > 1e-6 * ours[name].abs().max().item() + 1e-7:
            wrong.append(name)
    print(f"(b) mergekit: {len(ours)} tensors, {equal} bit for bit the same, largest difference {largest:.1e}, "
          f"{len(wrong)} differences {wrong[:5]}")
    return len(wrong)


def bytes_differ(reader, out, kind):
    """The gguf package's own conversion of the exported weights, byte for byte."""
    import gguf, numpy
    with open(os.path.join(out, "config.json"), encoding="utf8") as file:
        config = json.load(file)
    name = reader.fields["general.architecture"].contents()
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"]}
    heads["k_proj"] = config.get("num_key_value_heads") or heads["q_proj"]
    written = {t.name: t for t in reader.tensors}
    bad, seen = [], set()
    for name_here, tensor in weights(out).items():
        there = names.get_name(name_here, try_suffixes=(".weight", ".bias"))
        array, part = tensor.numpy(), name_here.split(".")[-2]
        if name == "llama" and part in heads:  # llama.cpp rotates neighbouring pairs, Hugging Face halves
            array = array.reshape(heads[part], 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        seen.add(there)
        if there not in written:
            bad.append(name_here)
            continue
        data = written[there].data
        if array.ndim == 1:
            expected = array.astype(numpy.float32)
        elif kind == "f16":
            expected = array.astype(numpy.float16)
        else:
            expected = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        if expected.tobytes() != numpy.ascontiguousarray(data).tobytes():
            apart = numpy.abs(gguf.quants.dequantize(data, written[there].tensor_type).astype(numpy.float64).reshape(array.shape) - array)
            bad.append(f"{name_here} (by {apart.max():.1e})")
    extra = sorted(set(written) - seen - {"rope_freqs.weight"})
    print(f"(c) {kind}: gguf: {len(written)} tensors, {len(reader.fields)} fields; {len(bad)} not its own bytes {bad[:3]}, "
          f"{len(extra)} unknown {extra[:3]}")
    return len(bad) + len(extra)


def llama_differs(args, out, file):
    try:
        import xllamacpp
    except ImportError:
        print("(d) xllamacpp is not installed: llama.cpp not run")
        return 0
    with open(os.path.join(out, "provenance.json"), encoding="utf8") as provenance:
        prompts = [a["prompt"] for a in json.load(provenance)["first_answers"]]
    prompts += PROMPTS
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf8", delete=False) as lines:
        lines.writelines(json.dumps({"prompt": p}) + "\n" for p in prompts)
    call = [args.heterosis, "generate", file, "--prompts", lines.name, "--max-new-tokens", "32", "--json"]
    outputs = json.loads(subprocess.run(call, stdout=subprocess.PIPE, check=True).stdout)["outputs"]
    os.unlink(lines.name)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = file, 2048, 1, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.verbosity = 0
    server = xllamacpp.Server(params)
    wrong, ties = 0, 0
    for prompt, ours in zip(prompts, outputs):
        reply = server.handle_completions({"prompt": prompt, "max_tokens": 32, "temperature": 0.0, "cache_prompt": False})
        reply = json.loads(reply) if isinstance(reply, (str, bytes)) else reply
        theirs = reply["choices"][0]["text"]
        if theirs != ours["text"]:
            apart = apart_by(out, prompt, theirs, ours["text"])
            wrong, ties = wrong + (apart > 0.02), ties + (apart <= 0.02)
            print(f"  llama.cpp: {theirs!r}\n  heterosis: {ours['text']!r}\n  {apart:.4f} nats apart where they part")
    print(f"(d) llama.cpp (xllamacpp {version('xllamacpp')}), f16: {len(prompts)} prompts, {wrong} differences, {ties} ties "
          "within 0.02 nats")
    return wrong


def apart_by(out, prompt, a, b):
    """How far apart two continuations' tokens are where they part, by the exported model in f32; llama.cpp rounds to f16."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    a, b = (tokenizer(prompt + text).input_ids for text in (a, b))
    parting = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
    with torch.no_grad():
        logits = model(torch.tensor([a[:parting]])).logits[0, -1]
    return (logits[a[parting]] - logits[b[parting]]).abs().item()


def gguf_differs(args, out):
    import gguf
    wrong = 0
    original = weights(out)
    for kind in ("f16", "q8_0"):
        with tempfile.TemporaryDirectory() as folder:
            target = os.path.join(folder, "out")
            done = subprocess.run([args.heterosis, "export", args.run, "best", target, "--gguf", kind], stderr=subprocess.PIPE, text=True,
                                  stdout=subprocess.DEVNULL, check=True)
            file = os.path.join(target, f"model-{kind}.gguf")
            if not os.path.exists(file):
                print(f"(c) {kind}: not written: {done.stderr.strip()}")
                continue
            wrong += bytes_differ(gguf.GGUFReader(file), target, kind)
            if kind == "f16":
                wrong += llama_differs(args, target, file)
            model = AutoModelForCausalLM.from_pretrained(target, gguf_file=f"model-{kind}.gguf", dtype=torch.float32)
            state = model.state_dict()
            bad, largest = [], 0.0
            for name, tensor in original.items():
                scale = tensor.abs().max().item()
                difference = (state[name].float() - tensor).abs().max().item()
                largest = max(largest, difference / max(scale, 1e-12))
                if difference > (1e-3 if kind == "f16" else 1e-2) * scale:
                    bad.append(name)
            ours, theirs = AutoTokenizer.from_pretrained(target), AutoTokenizer.from_pretrained(target, gguf_file=f"model-{kind}.gguf")
            texts = ["The quick brown fox doesn't jump.", "¿Cuántas manzanas?", "Answer: three times four\n\nis twelve", "東京 naïve 🚀"]
            cut = [t for t in texts if ours(t).input_ids != theirs(t).input_ids]
            print(f"(c) {kind}: transformers: {len(original)} tensors, "
                  f"largest relative difference {largest:.1e}, {len(bad)} differences {bad[:3]}; {len(texts)} texts, {len(cut)} cut otherwise")
            wrong += len(bad) + len(cut)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--heterosis", default="heterosis")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--gguf", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "export")
        subprocess.run([args.heterosis, "export", args.run, "best", out], check=True, stdout=subprocess.DEVNULL)
        records = journal(args.run)
        print(f"{winner(records)} of {args.run}")
        wrong = answers_differ(args, out) + weights_differ(out)
        if args.gguf:
            wrong += gguf_differs(args, out)
    sys.exit(min(wrong, 255))


if __name__ == "__main__":
    main()
