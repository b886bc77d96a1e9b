"""Judge canned and hostile outputs with lm-evaluation-harness: goldens for crates/eval/tests/data/extraction.jsonl.

    pip install lm-eval==0.4.13
    python extraction.py OUT.jsonl [--seed 0] [--n 8]

Needs no benchmark data: questions are not looked at, gold answers are made up. One JSON object a line: task, lang,
output, gold, filters: {NAME: {extracted, exact_match}}.
"""
import argparse, json, os, random
import yaml, lm_eval
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble

TASKS = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")
LANGS = "bn de en es fr ja ru sw te th zh".split()


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: None)


def config(path):
    read = yaml.load(open(path, encoding="utf8"), Loader)
    if "include" not in read:
        return read
    base = config(os.path.join(os.path.dirname(path), read.pop("include")))
    return {**base, **read}


class Instance:
    def __init__(self, output):
        self.resps, self.filtered_resps, self.doc = [output], {}, {}


def judge(cfg, output, gold):
    metric = cfg["metric_list"][0]
    options = ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
    options = {k: metric[k] for k in options if k in metric}
    verdicts = {}
    for f in cfg["filter_list"]:
        steps = [[s["function"], {k: v for k, v in s.items() if k != "function"}] for s in f["filter"]]
        instance = Instance(output)
        build_filter_ensemble(f["name"], steps).apply([instance])
        extracted = instance.filtered_resps[f["name"]]
        match = exact_match_hf_evaluate(predictions=[extracted], references=[gold], **options)["exact_match"]
        verdicts[f["name"]] = dict(extracted=extracted, exact_match=float(match))
    return verdicts


HOSTILE = [
    "", " ", "\n\n", "\0", "{n}\0", "\0{n}", "{n}\u0085", "\u00a0{n}\u00a0", "\u3000{n}", "\u200b{n}", "\x1c{n}\x1f", "{n}\r\n",
    "１２３", "{wide}", "{lead} {wide}.", "১২", "٣", "𝟏𝟐", "²", "½", "Ⅳ", "{lead}  {n}.", "{lead}\n{n}.", "{lead}\u00a0{n}.", "{lead}{n}",
    "{lead} {n}", "{lead} {n}.", "{lead} {n},", "{lead} {n}..", "{lead} {n}.\n", "{lead} {n}\n{lead} 7.", "{lead} 7. {lead} {n}.",
    "{lead} -{n}.", "{lead} −{n}.", "{lead} --{n}.", "{lead} +{n}.", "{lead} ${n}.", "{lead} -${n}.", "{lead} {n}.00.", "{lead} .{n}.",
    "{lead} {n},000.", "{lead} {n}。", "{lead}{n}です。", "{lead} {n}!", "{lead} {n}\\.", "{lead} ,.,.", "{lead} .", "{lead} ",
    "#### {n}", "#### {n}\n#### 9", "#### 9\n#### {n}", "#### #### {n}", "####{n}", "####  {n}", "### {n}", "##### {n}", "#### {n} #### ",
    "#### -{n}", "#### {n}.", "#### {n}.\n", "#### .{n}", "#### {n}\n\n\n", "#### \n{n}", "a#### {n}", "#### $", "#### ,", "{n} ####", "#### ",
    "$", "$$", "$.", ".", "..", "...", ",", "-", "--", "-.", "-$", "$-{n}", "-${n}", "{n}-", "-{n}-", "1-{n}", "{n}.", "{n},", "{n} .", "{n} ,",
    "{n}%", "{n}°", "{n}e3", "{n}/2", "2^{n}", "{n}:30", "({n})", "[{n}]", "\\boxed{{{n}}}", "**{n}**", "`{n}`", "{n}\t", "x{n}y", "{n}\n.",
    "İ {n}", "İ", "ẞ{n}", "ΑΣ {n}", "ΑΣ", "{lead_upper} {n}.", "{lead_lower} {n}.", "ﬀ{n}", "e\u0301{n}", "🙂{n}🙂", "\ud7ff{n}", "\U0010ffff{n}",
    "{n} {n}", "{n},{n}", "{n}.{n}.{n}", "1,2,3", "1, 2, 3", "0{n}", "{n}.0", "{n}.", "-0", "0", "00", "[invalid]", "[INVALID]", "invalid",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{{|}}~{n}", "“{n}”", "{n}…", "$ {n}", "{lead} [{n}].", "The answer is {n}.", "the answer is {n}.",
    "The final answer is {n}", "The final answer is ${n}.", "The final answer is {n}. The final answer is 3", "The final answer is", "The final answer is .",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=8, help="cases per task and language; 0 = every output with every task")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tasks = [("gsm8k", "en", "gsm8k/gsm8k.yaml", "####"), ("gsm8k_cot", "en", "gsm8k/gsm8k-cot.yaml", "The answer is"),
             ("gsm8k_cot_zeroshot", "en", "gsm8k/gsm8k-cot-zeroshot.yaml", "The answer is"),
             ("gsm8k_cot_llama", "en", "gsm8k/gsm8k-cot-llama.yaml", "The final answer is")]
    for kind in ("direct", "native_cot", "en_cot"):
        for lang in LANGS:
            tasks.append((f"mgsm_{kind}", lang, f"mgsm/{kind}/mgsm_{kind}_{lang}.yaml", None))
    rows = []
    for task, lang, path, lead in tasks:
        cfg = config(f"{TASKS}/{path}")
        if lead is None:
            strict = [s.get("regex_pattern", "") for f in cfg["filter_list"] if f["name"] == "strict-match" for s in f["filter"]]
            lead = next((p.split("(")[0].strip() for p in strict if "(" in p), "The answer is")
        for form in rng.sample(HOSTILE, args.n) if args.n else HOSTILE:
            n = rng.choice([0, 3, 18, 180, 1200, 114200, rng.randrange(1000)])
            wide = "".join(chr(ord(c) + 0xFEE0) for c in str(n))
            written = rng.choice([str(n), f"{n:,}"])
            output = form.format(n=written, wide=wide, lead=lead, lead_upper=lead.upper(), lead_lower=lead.lower())
            output = rng.choice(["", "", " ", "so 2 + 3 = 5. ", "a\nb\n"]) + output
            gold = str(rng.choice([n, n, n, n + 1]))
            if task in ("gsm8k", "gsm8k_cot_zeroshot"):
                gold = rng.choice(["", "It is.\n#### 8\n"]) + f"He has {n - 2} + 2 = <<{n - 2}+2={n}>>{n}.\n#### " + rng.choice([gold, f"{int(gold):,}", gold + "."])
            rows.append(dict(task=task, lang=lang, output=output, gold=gold, filters=judge(cfg, output, gold)))
    with open(args.out, "w", encoding="utf8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    right = sum(any(v["exact_match"] for v in row["filters"].values()) for row in rows)
    print(f"lm-eval {lm_eval.__version__}: {len(rows)} cases, {right} right by some filter")


if __name__ == "__main__":
    main()
