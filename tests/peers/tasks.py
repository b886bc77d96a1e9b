"""Score tasks on the same model with lm-evaluation-harness and with heterosis, and compare question by question.

    pip install lm-eval==0.4.13 torch transformers accelerate scikit-learn
    python tasks.py MODEL_DIR [--only NAME…] [--yamls | --verdicts] [--limit 6] [--shots N] [--chat] [--threads 2] [--heterosis PATH]

The data are made up (no benchmark is fetched), in the form of the published rows, and differ from run to run with --seed. Each
built-in task is compared with lm-eval's task of the same data; with --yamls twenty of lm-eval's own YAML files are read by both as
they stand. Prompts have to be equal to the byte, choices taken, extracted answers, verdicts and scores equal; log-likelihoods of the right
choices may differ by 1e-3. Both in f32 on the CPU, greedily. The exit code is 1 if anything differs.
"""
import argparse, json, os, pathlib, random, subprocess, sys, tempfile

import datasets
import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

ROOT = pathlib.Path(lm_eval.__file__).parent / "tasks"
NOUNS = "river house dog teacher bread winter engine song doctor garden mountain letter ship market sugar candle".split()
VERBS = "sees takes makes leaves finds carries likes breaks opens paints".split()
rng = random.Random(7)


def word():
    return rng.choice(NOUNS)


def sentence():
    return f"The {word()} {rng.choice(VERBS)} the {word()} near the {word()}."


def texts(n):
    return [f"the {word()} and the {word()}" for _ in range(n)]


def labelled(n, key):
    return dict(choices=dict(text=texts(n), label=list("ABCDE")[:n]), answerKey=rng.choice("ABCDE"[:n])), key


def arc():
    n = rng.choice([3, 4, 5])
    label = rng.choice([list("ABCDE"), list("12345")])[:n]
    return dict(id=word(), question=sentence() + " Why?", choices=dict(text=texts(n), label=label), answerKey=rng.choice(label))


def hellaswag():
    return dict(activity_label="Baking bread", ctx_a=sentence() + " [title]", ctx_b=rng.choice(["the dog", "She [step] THEN", ""]),
                endings=[f" [header] the {word()}  {rng.choice(VERBS)} [substeps] it." for _ in range(4)], label=str(rng.randrange(4)))


def winogrande():
    a, b = rng.sample(NOUNS, 2)
    return dict(sentence=f"The {word()} was near the {a} and the {b}, so the _ had to be moved  away.", option1=a, option2=b, answer=rng.choice("12"))


def mc(name):
    return {name: dict(choices=[sentence() for _ in range(4)], labels=rng.choice([[1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0]]))}


def mmlu():
    return dict(question=f" {sentence()} What then? ", choices=texts(4), answer=rng.randrange(4), subject="x")


def maths():
    n = rng.randrange(100)
    answer = rng.choice([f"{n}", f"\\frac{{{n}}}{{7}}", f"{n}\\text{{ cm}}", f"({n}, 3)", f"{n},\\!000", f"\\sqrt{{{n}}}"])
    return dict(problem=f"What is {n}?", solution=f"It is easy: $\\boxed{{{answer}}}$.", level="Level 1", type="Algebra", answer=answer, subject="Algebra", unique_id=word())


def xcopa():
    return dict(premise=sentence(), choice1="The " + word(), choice2="A " + word(), question=rng.choice(["cause", "effect"]), label=rng.randrange(2), idx=0, changed=False)


def belebele():
    row = {f"mc_answer{i}": text for i, text in enumerate(texts(4), 1)}
    return dict(row, flores_passage=sentence() + " " + sentence(), question=f"{sentence()} Why? ", correct_answer_num=rng.choice("1234"))


def ifeval():
    kinds = [("punctuation:no_comma", {}), ("detectable_format:title", {}), ("length_constraints:number_words", dict(num_words=rng.randrange(1, 30), relation=rng.choice(["at least", "less than"]))),
             ("keywords:existence", dict(keywords=[word()])), ("keywords:frequency", dict(keyword="the", frequency=2, relation="at least")),
             ("keywords:letter_frequency", dict(letter="e", let_frequency=9, let_relation="less than")), ("startend:quotation", {}),
             ("detectable_format:number_bullet_lists", dict(num_bullets=2)), ("length_constraints:number_paragraphs", dict(num_paragraphs=1)),
             ("keywords:forbidden_words", dict(forbidden_words=["the", word()])), ("startend:end_checker", dict(end_phrase="end.")),
             ("detectable_content:number_placeholders", dict(num_placeholders=1)), ("combination:two_responses", {}), ("detectable_format:json_format", {}),
             ("detectable_format:number_highlighted_sections", dict(num_highlights=1)), ("detectable_format:constrained_response", {})]
    chosen = rng.sample(kinds, rng.choice([1, 2, 3]))
    keys = sorted({key for _, kwargs in kinds for key in kwargs})
    return dict(key=rng.randrange(9999), prompt=f"Write about the {word()}.", instruction_id_list=[k for k, _ in chosen],
                kwargs=[{key: kwargs.get(key) for key in keys} for _, kwargs in chosen])


def simple(**fields):
    return lambda: {name: make() for name, make in fields.items()}


LABEL = lambda n: lambda: rng.randrange(n)
QUESTION = lambda: sentence()[:-1]

# Ours, lm-eval's, its file, data set, configuration, splits, rows, the metric of theirs for each of ours.
BUILTIN = [
    ("arc_easy", "arc_easy", "allenai/ai2_arc", "ARC-Easy", ("train", "validation", "test"), arc),
    ("arc_challenge", "arc_challenge", "allenai/ai2_arc", "ARC-Challenge", ("train", "validation", "test"), arc),
    ("hellaswag", "hellaswag", "Rowan/hellaswag", None, ("train", "validation"), hellaswag),
    ("piqa", "piqa", "baber/piqa", None, ("train", "validation"), simple(goal=QUESTION, sol1=sentence, sol2=sentence, label=LABEL(2))),
    ("winogrande", "winogrande", "allenai/winogrande", "winogrande_xl", ("train", "validation"), winogrande),
    ("boolq", "boolq", "aps/super_glue", "boolq", ("train", "validation"), simple(passage=sentence, question=QUESTION, label=LABEL(2))),
    ("openbookqa", "openbookqa", "allenai/openbookqa", "main", ("train", "validation", "test"),
     lambda: dict(question_stem=QUESTION(), choices=dict(text=texts(4), label=list("ABCD")), answerKey=rng.choice([" A", "B", "C", "D"]))),
    ("truthfulqa_mc1", "truthfulqa_mc1", "truthfulqa/truthful_qa", "multiple_choice", ("validation",), lambda: dict(question=QUESTION(), **mc("mc1_targets"))),
    ("truthfulqa_mc2", "truthfulqa_mc2", "truthfulqa/truthful_qa", "multiple_choice", ("validation",), lambda: dict(question=QUESTION(), **mc("mc2_targets"))),
    ("mmlu_anatomy", "mmlu_anatomy", "cais/mmlu", "anatomy", ("dev", "validation", "test"), mmlu),
    ("mmlu_us_foreign_policy", "mmlu_us_foreign_policy", "cais/mmlu", "us_foreign_policy", ("dev", "validation", "test"), mmlu),
    ("minerva_math500", "minerva_math500", "HuggingFaceH4/MATH-500", "default", ("test",), maths),
    ("minerva_math_num_theory", "minerva_math_num_theory", "EleutherAI/hendrycks_math", "number_theory", ("train", "test"), maths),
    ("ifeval", "ifeval", "google/IFEval", None, ("train",), ifeval),
    ("xnli_es", "xnli_es", "facebook/xnli", "es", ("train", "validation", "test"), simple(premise=QUESTION, hypothesis=sentence, label=LABEL(3))),
    ("xnli_ru", "xnli_ru", "facebook/xnli", "ru", ("train", "validation", "test"), simple(premise=QUESTION, hypothesis=sentence, label=LABEL(3))),
    ("xcopa_it", "xcopa_it", "cambridgeltl/xcopa", "it", ("validation", "test"), xcopa),
    ("xcopa_zh", "xcopa_zh", "cambridgeltl/xcopa", "zh", ("validation", "test"), xcopa),
    ("belebele_spa_Latn", "belebele_spa_Latn", "facebook/belebele", "spa_Latn", ("test",), belebele),
    ("belebele_swh_Latn", "belebele_swh_Latn", "facebook/belebele", "swh_Latn", ("test",), belebele),
]

# lm-eval's files as they stand, and rows of their data.
YAMLS = [
    ("arc/arc_challenge.yaml", arc), ("piqa/piqa.yaml", simple(goal=QUESTION, sol1=sentence, sol2=sentence, label=LABEL(2))),
    ("openbookqa/openbookqa.yaml", lambda: dict(question_stem=QUESTION(), choices=dict(text=texts(4), label=list("ABCD")), answerKey=rng.choice("ABCD"))),
    ("super_glue/boolq/default.yaml", simple(passage=sentence, question=QUESTION, label=LABEL(2))),
    ("super_glue/rte/default.yaml", simple(premise=sentence, hypothesis=sentence, label=LABEL(2))),
    ("truthfulqa/truthfulqa_mc1.yaml", lambda: dict(question=QUESTION(), **mc("mc1_targets"))),
    ("mmlu/default/mmlu_anatomy.yaml", mmlu), ("belebele/belebele_spa_Latn.yaml", belebele),
    ("xnli/xnli_es.yaml", simple(premise=QUESTION, hypothesis=sentence, label=LABEL(3))),
    ("sciq/sciq.yaml", simple(support=sentence, question=QUESTION, distractor1=word, distractor2=word, distractor3=word, correct_answer=word)),
    ("lambada/lambada_openai.yaml", simple(text=sentence)),
    ("gsm8k/gsm8k.yaml", simple(question=QUESTION, answer=lambda: f"It is so.\n#### {rng.randrange(99)}")),
    ("gsm8k/gsm8k-cot.yaml", simple(question=QUESTION, answer=lambda: f"It is so.\n#### {rng.randrange(9)},{rng.randrange(100, 999)}")),
    ("glue/cola/default.yaml", simple(sentence=sentence, label=LABEL(2))), ("glue/mrpc/default.yaml", simple(sentence1=sentence, sentence2=sentence, label=LABEL(2))),
    ("glue/sst2/default.yaml", simple(sentence=sentence, label=LABEL(2))), ("glue/qnli/default.yaml", simple(question=sentence, sentence=sentence, label=LABEL(2))),
    ("blimp/anaphor_gender_agreement.yaml", simple(sentence_good=sentence, sentence_bad=sentence)),
    ("commonsense_qa/default.yaml", lambda: dict(question=QUESTION(), choices=dict(label=list("ABCDE"), text=texts(5)), answerKey=rng.choice("ABCDE"))),
    ("swag/swag.yaml", simple(startphrase=sentence, ending0=sentence, ending1=sentence, ending2=sentence, ending3=sentence, label=LABEL(4))),
    ("xstorycloze/default_es.yaml", simple(**{f"input_sentence_{i}": sentence for i in range(1, 5)}, sentence_quiz1=sentence, sentence_quiz2=sentence, answer_right_ending=lambda: rng.choice([1, 2]))),
    ("kmmlu/direct/kmmlu_direct_law.yaml", simple(question=QUESTION, A=word, B=word, C=word, D=word, answer=lambda: rng.randrange(1, 5))),
    ("bbh/cot_fewshot/boolean_expressions.yaml", simple(input=lambda: "not True and ( False ) is", target=lambda: rng.choice(["True", "False"]))),
    ("arithmetic/arithmetic_1dc.yaml", simple(context=lambda: f"Question: What is {rng.randrange(9)} + 2?\nAnswer:", completion=lambda: f" {rng.randrange(9)}")),
]


def write_rows(folder, dataset, config, splits, make, count):
    """The same rows as files for heterosis and as a data set for lm-eval."""
    made = {}
    for split in splits:
        rows = [make() for _ in range(count if split in ("test", "validation") else max(8, count))]
        file = folder / dataset / (config or "default") / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
        made[split] = datasets.Dataset.from_list(rows)
    return datasets.DatasetDict(made)


def ours(args, name, data):
    with tempfile.TemporaryDirectory() as folder:
        answers = os.path.join(folder, "answers.jsonl")
        call = [args.heterosis, "eval", args.model, "--task", str(name), "--limit", str(args.limit), "--dtype", "f32", "--device", "cpu", "--answers", answers, "--json"]
        call += ["--max-new-tokens", str(args.max_new_tokens)]
        call += ["--shots", str(args.shots)] if args.shots is not None else []
        call += ["--apply-chat-template"] if args.chat else []
        done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "HETEROSIS_DATA": str(data)})
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.decode()}")
        return json.loads(done.stdout)["tasks"][0], [json.loads(line) for line in open(answers, encoding="utf8")]


def harness(args, model, task):
    # lm-eval's own rule: a task written for no examples keeps to that.
    return lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=args.manager, limit=args.limit, num_fewshot=args.shots, apply_chat_template=args.chat, fewshot_as_multiturn=args.chat,
        gen_kwargs=dict(max_gen_toks=args.max_new_tokens) if args.generates else None, log_samples=True, bootstrap_iters=0)


NAMES = {"mc2": "acc"}


def differences(theirs, name, score, answers):
    by_doc = {}
    for sample in theirs["samples"][name]:
        by_doc.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    wrong = [] if len(by_doc) == len(answers) else [("-", "number of questions", len(by_doc), len(answers))]
    furthest = 0.0
    for index, answer in enumerate(answers):
        samples = by_doc[index]
        first = next(iter(samples.values()))
        context = first["arguments"][0][0]
        if context != answer.get("prompt", ""):
            wrong.append((index, "prompt", context, answer.get("prompt", "")))
        if "log_likelihood" in answer and "target" in first:
            likelihoods = [float(response[0][0]) for response in first["resps"]]
            target = first["target"]
            place = target if isinstance(target, int) and target < len(likelihoods) else None
            if len(likelihoods) == 1:
                place = 0
            if place is not None:
                furthest = max(furthest, abs(likelihoods[place] - answer["log_likelihood"]))
        elif answer["finish"]:
            output = first["resps"][0][0]
            if output != answer["output"]:
                wrong.append((index, "output", output, answer["output"]))
        for ours_name, verdict in answer["filters"].items():
            sample = samples.get(ours_name, first)
            metric = NAMES.get(ours_name, ours_name if ours_name in sample else "exact_match")
            their = sample.get(metric)
            if isinstance(their, list):  # IFEval's instructions, one by one
                their = sum(their) / len(their)
            if isinstance(their, (int, float, bool)) and ours_name not in ("f1", "mcc") and abs(float(their) - verdict["exact_match"]) > 1e-5:
                wrong.append((index, ours_name, their, verdict))
            if ours_name in samples and sample["filtered_resps"][0] != verdict["extracted"]:
                wrong.append((index, f"{ours_name} extracted", sample["filtered_resps"][0], verdict["extracted"]))
    compared = 0
    for ours_name, value in score["scores"].items():
        results = theirs["results"][name]
        for key in (f"{ours_name},none", f"exact_match,{ours_name}", f"{NAMES.get(ours_name)},none"):
            if key in results:
                compared += 1
                tolerance = 1e-5 * max(1.0, abs(results[key]))
                if ours_name == "perplexity":
                    tolerance = 1e-2 * results[key]
                if abs(results[key] - value["value"]) > tolerance:
                    wrong.append(("-", f"{ours_name} score", results[key], value["value"]))
                break
    if not compared:
        wrong.append(("-", "scores", sorted(theirs["results"][name]), sorted(score["scores"])))
    return wrong, furthest


def verdicts(args, count=300):
    """Outputs put together at random, judged by lm-eval's own functions and by `heterosis rescore`: no model is asked."""
    from importlib import import_module

    minerva, followed = import_module("lm_eval.tasks.minerva_math.utils"), import_module("lm_eval.tasks.ifeval.utils")
    numbers = ["5", "-5", "0.5", "\\frac{1}{2}", "\\frac12", "\\sqrt{2}", "\\sqrt2", "2\\pi", "1,000", "1000", "(1,2)", "x+1", "1+x", "10\\text{ cm}", "10", "50\\%", "90^\\circ", "90",
               "\\text{yes}", "yes", "3\\cdot 2", "6", "x^2-1", "(x-1)(x+1)", "[2,5)", "\\dfrac{2}{4}", "x=5", "\\left(3, \\frac{\\pi}{2}\\right)", "\\$5", "5\\text{ dollars}"]
    endings = ["Final Answer: The final answer is ${}$. I hope it is correct.", "Final Answer: The final answer is {}. I hope it is correct.\n\nProblem:", "The answer is {}.",
               "Final Answer: The final answer is ${}$", "so $\\boxed{{{}}}$.\nFinal Answer: The final answer is ${}$. I hope it is correct."]
    pieces = [sentence, lambda: "\n", lambda: "\n\n", lambda: "* " + word() + "\n", lambda: "- " + word() + "\n", lambda: "<<A title>>\n", lambda: "[name] ", lambda: "*bold* ", lambda: "**bold** ",
              lambda: "***\n", lambda: "******", lambda: "P.S. more", lambda: '"', lambda: "My answer is no.", lambda: "Section 1 ", lambda: "end.", lambda: ", ", lambda: "{}", lambda: "THE END "]
    lines, expected = [], []
    for _ in range(count):
        gold, ending = rng.choice(numbers), rng.choice(endings)
        said = rng.choice([gold, rng.choice(numbers)])
        doc = dict(answer=minerva.normalize_final_answer(gold), solution=f"$\\boxed{{{gold}}}$")
        output = sentence() + "\n" + ending.format(*[said] * ending.count("{}"))
        lines.append(dict(task="minerva_math500", lang="en", output=output, gold=gold))
        given = minerva.normalize_final_answer(minerva.get_unnormalized_answer(output))
        expected.append(dict(exact_match=float(minerva.is_equiv(given, doc["answer"]))))
    for _ in range(count):
        doc = ifeval()
        output = "".join(rng.choice(pieces)() for _ in range(rng.randrange(1, 7)))
        lines.append(dict(task="ifeval", lang="en", output=output, gold=json.dumps({k: doc[k] for k in ("instruction_id_list", "kwargs")})))
        result = followed.process_results(doc, [output])
        expected.append({k: float(sum(v) / len(v) if isinstance(v, list) else v) for k, v in result.items()})
    with tempfile.TemporaryDirectory() as folder:
        stored, judged = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
        open(stored, "w", encoding="utf8").writelines(json.dumps(line) + "\n" for line in lines)
        subprocess.run([args.heterosis, "rescore", stored, "--answers", judged, "--json"], stdout=subprocess.DEVNULL, check=True)
        ours = [json.loads(line) for line in open(judged, encoding="utf8")]
    wrong = 0
    for line, their, our in zip(lines, expected, ours):
        for name, value in their.items():
            if abs(our["filters"][name]["exact_match"] - value) > 1e-9:
                wrong += 1
                if wrong <= 12:
                    print(f"  {line['task']} {name}: lm-eval {value}, heterosis {our['filters'][name]}\n    {line['output']!r} against {line['gold']!r}")
    right = [sum(e.get("exact_match", e.get("prompt_level_loose_acc")) for e in part) for part in (expected[:count], expected[count:])]
    print(f"verdicts: {count} outputs each of minerva_math and ifeval ({right[0]:.0f} and {right[1]:.0f} right), {wrong} differences", flush=True)
    return wrong


def report(name, answers, wrong, furthest, score):
    values = ", ".join(f"{n} {v['value']:.4f}" for n, v in score["scores"].items() if n not in ("log_likelihood",))
    print(f"{name}: {len(answers)} questions, {len(wrong)} differences; likelihoods within {furthest:.1e}; {values}", flush=True)
    for index, what, their, our in wrong[:4]:
        print(f"  question {index}, {what}\n    lm-eval   {their!r}\n    heterosis {our!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--yamls", action="store_true")
    parser.add_argument("--verdicts", action="store_true", help="only outputs made up, judged by both without a model")
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--shots", type=int)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heterosis", default="heterosis")
    args = parser.parse_args()
    rng.seed(args.seed)
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    import nltk

    nltk.download = lambda *_, **__: False  # IFEval's sentences are not compared
    if args.verdicts:
        sys.exit(1 if verdicts(args) else 0)
    model = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=1)
    print(f"lm-eval {lm_eval.__version__}, transformers {transformers.__version__}, torch {torch.__version__}; {args.limit} questions a task, "
          f"{'own' if args.shots is None else args.shots} examples, {'chat' if args.chat else 'plain'}")
    args.manager = TaskManager()  # looks through all of lm-eval's files, once
    total = different = tasks = 0
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder)
        if args.yamls:
            work = [(ROOT / file, None, None, None, None, make) for file, make in YAMLS]
        else:
            work = BUILTIN
        for ours_name, theirs_name, dataset, config, splits, make in work:
            if args.only and not any(word in str(ours_name) for word in args.only):
                continue
            if args.yamls:
                from lm_eval.tasks._yaml_loader import load_yaml

                keys = load_yaml(ours_name, resolve_func=False)
                theirs_name, dataset, config = keys["task"], keys["dataset_path"], keys.get("dataset_name")
                splits = {keys.get(k) for k in ("training_split", "validation_split", "test_split", "fewshot_split")} - {None}
                args.generates = keys.get("output_type", "generate_until") == "generate_until"
            else:
                args.generates = ours_name.startswith(("minerva", "ifeval"))
            local = write_rows(data, dataset, config, sorted(splits), make, max(args.limit, 2))
            datasets.load_dataset = lambda *_, **__: local
            theirs = harness(args, model, theirs_name)
            score, answers = ours(args, ours_name, data)
            wrong, furthest = differences(theirs, theirs_name, score, answers)
            if furthest > 1e-3:
                wrong.append(("-", "log-likelihoods", "within 1e-3", furthest))
            name = ours_name.relative_to(ROOT) if args.yamls else ours_name
            report(name, answers, wrong, furthest, score)
            total, different, tasks = total + len(answers), different + len(wrong), tasks + 1
    print(f"{total} questions of {tasks} tasks, {different} differences")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
