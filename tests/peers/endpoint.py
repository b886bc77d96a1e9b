"""heterosis' endpoint with the clients that people have: the openai package, and lm-evaluation-harness.

    pip install openai "lm-eval[api]==0.4.13"
    python tests/peers/endpoint.py target/release/heterosis models/tiny-spanish

Serves the model, and compares: greedy completions with `heterosis generate`, whole and streamed, 1, 8 and 64 clients at a time (and
how many tokens a second each makes of what `generate` makes); `lm_eval --model local-completions` on an own task that
generates and one that chooses with `heterosis eval`, question by question. Prints a table, ends with 1 if anything differs.
"""
import concurrent.futures, json, os, pathlib, re, subprocess, sys, tempfile, time

import openai

heterosis, model = sys.argv[1], sys.argv[2]
tmp = pathlib.Path(tempfile.mkdtemp())
bad = 0


def run(*args):
    out = subprocess.run([heterosis, *args], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


prompts = [f"Ana tiene {2 + i % 17} libros y compra {3 + i % 5} libros." for i in range(64)]
(tmp / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
args = ["generate", model, "--prompts", str(tmp / "prompts.jsonl"), "--max-new-tokens", "48", "--json"]
run(*args)
start = time.time()
expected = run(*args)["outputs"]
took = time.time() - start
tokens = sum(len(o["token_ids"]) for o in expected)

server = subprocess.Popen([heterosis, "serve", model, "--port", "0"], stderr=subprocess.PIPE, text=True)
address = re.search(r"http://\S+/v1", next(line for line in server.stderr if "http" in line)).group(0)
client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
name = client.models.list().data[0].id


def ask(i, stream=False):
    got = client.completions.create(model=name, prompt=prompts[i], max_tokens=48, temperature=0, stream=stream)
    return "".join(c.choices[0].text for c in got) if stream else got.choices[0].text


print("| clients at a time | right | tokens a second, of `generate`'s |\n|---|---|---|")
for clients in (1, 8, 64):
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
        start = time.time()
        texts = list(pool.map(ask, range(64)))
        seconds = time.time() - start
    right = sum(t == e["text"] for t, e in zip(texts, expected))
    bad += right != 64
    print(f"| {clients} | {right} of 64 | {took / seconds:.0%} |")
streamed = sum(ask(i, stream=True) == expected[i]["text"] for i in range(64))
bad += streamed != 64
print(f"\nstreamed: {streamed} of 64 the same")

questions = [{"q": f"{a} + {b} =", "a": str(a + b), "w": str(a + b + 1)} for a in range(2, 12) for b in range(2, 5)]
(tmp / "sums.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
shared = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp}/sums.jsonl}}}}\ntest_split: test\n"
(tmp / "sums_choose.yaml").write_text(
    f"task: sums_choose\n{shared}output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\ndoc_to_choice: ['{{{{a}}}}', '{{{{w}}}}']\n"
    "doc_to_target: 0\nmetric_list: [{metric: acc}]\n".replace("['{{a}}', '{{w}}']", "'{{[a, w]}}'"))
out = tmp / "lm"
done = subprocess.run(
    [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--tasks", "sums_choose", "--include_path", str(tmp),
     "--model_args", f"model={name},base_url={address}/completions,num_concurrent=8,tokenizer={model},tokenizer_backend=huggingface,max_retries=1",
     "--output_path", str(out), "--log_samples"], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
if done.returncode:
    print(done.stderr[-3000:])
    bad += 1
else:
    direct = tmp / "direct"
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "sums_choose", "--include_path", str(tmp), "--model_args",
         f"pretrained={model},dtype=float32", "--device", "cpu", "--output_path", str(direct), "--log_samples"],
        capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def samples(folder):
        file = next(folder.rglob("samples_*.jsonl"))
        rows = sorted((json.loads(line) for line in file.open()), key=lambda row: row["doc_id"])
        return [[(float(r[0][0]), str(r[0][1])) for r in row["resps"]] for row in rows]

    here, there = samples(out), samples(direct)
    far = max(abs(a[0] - b[0]) for x, y in zip(here, there) for a, b in zip(x, y))
    greedy = sum(a[1] == b[1] for x, y in zip(here, there) for a, b in zip(x, y))
    n = sum(map(len, here))
    bad += far > 1e-3 or greedy != n
    print(f"lm_eval local-completions beside its own hf model: {n} likelihoods, largest difference {far:.1e}, greedy flags {greedy} of {n} alike")
server.terminate()
server.wait()
sys.exit(bad > 0)
