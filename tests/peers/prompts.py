"""The prompts that lm-evaluation-harness builds from local data, to compare ours with, character by character.

    pip install lm-eval==0.4.13
    python prompts.py DATA_DIR OUT.jsonl [--limit 50] [--langs es ja] [--shots 0 2 8]

DATA_DIR holds gsm8k/{train,test}.jsonl, mgsm/mgsm_LANG.tsv and mgsm/exemplars.json. Each task is built by lm-eval's own
TaskManager, with the few-shot seed 1234 that its command line uses; only the download is replaced by the local files.
One JSON object a line: task, lang, shots (null = the task's default), index, prompt, messages (what a chat template
gets, few-shot examples as turns), gold, until.
"""
import argparse, csv, json, os

import datasets
import lm_eval
from lm_eval.tasks import TaskManager

LANGS = "bn de en es fr ja ru sw te th zh".split()


def gsm8k(data):
    def read(split):
        return datasets.Dataset.from_list([json.loads(line) for line in open(f"{data}/gsm8k/{split}.jsonl", encoding="utf8")])

    return datasets.DatasetDict(train=read("train"), test=read("test"))


def mgsm(data, lang):
    published = json.load(open(f"{data}/mgsm/exemplars.json", encoding="utf8"))
    train = [dict(question=e["q"], answer=e["a"], answer_number=n, equation_solution=s) for e, n, s in
             zip(published["exemplars"][lang].values(), published["number_answers"], published["equation_solutions"])]
    tsv = csv.reader(open(f"{data}/mgsm/mgsm_{lang}.tsv", encoding="utf8", newline="\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    test = [dict(question=q, answer=None, answer_number=int(n.replace(",", "")), equation_solution=None) for q, n in tsv]
    return datasets.DatasetDict(train=datasets.Dataset.from_list(train), test=datasets.Dataset.from_list(test))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--langs", nargs="+", default=LANGS)
    parser.add_argument("--shots", nargs="*", type=int, default=[0, 1, 2, 5, 8], help="besides each task's default")
    args = parser.parse_args()
    local = {("openai/gsm8k", "main"): gsm8k(args.data)}
    local.update({("juletxara/mgsm", lang): mgsm(args.data, lang) for lang in args.langs})
    datasets.load_dataset = lambda path, name=None, **_: local[path, name]

    names = [(f"gsm8k{k}", f"gsm8k{k}", "en") for k in ("", "_cot", "_cot_llama", "_cot_zeroshot")]
    names += [(f"mgsm_{k}_{lang}", f"mgsm_{k}", lang) for k in ("direct", "native_cot", "en_cot") for lang in args.langs]
    manager = TaskManager()
    count = 0
    with open(args.out, "w", encoding="utf8") as out:
        for name, task_name, lang in names:
            for shots in (None, *args.shots):
                # A task written for no examples keeps to that.
                task = manager.load([name])["tasks"][name]
                default = task.get_config("num_fewshot")
                wanted = default or 0 if shots is None or default == 0 else shots
                task.set_config(key="num_fewshot", value=wanted)
                both = []
                for chat in (False, True):
                    task.set_fewshot_seed(seed=1234)
                    options = dict(apply_chat_template=chat, fewshot_as_multiturn=chat)
                    template = lambda messages, add_generation_prompt=True: messages
                    task.build_all_requests(limit=args.limit, chat_template=template if chat else None, **options)
                    both.append(task.instances)
                for index, (plain, chat) in enumerate(zip(*both)):
                    row = dict(task=task_name, lang=lang, shots=shots, index=index, prompt=plain.args[0], messages=chat.args[0],
                               gold=str(task.doc_to_target(plain.doc)), until=plain.args[1]["until"])
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
    print(f"lm-eval {lm_eval.__version__}: {count} prompts of {len(names)} tasks")


if __name__ == "__main__":
    main()
