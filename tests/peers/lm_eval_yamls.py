"""Which of lm-evaluation-harness's own task files can be read: counts by reason.

    pip install lm-eval==0.4.13
    python lm_eval_yamls.py [--heterosis PATH] [--list REASON]

Walks the task folder of the installed lm-eval and runs `heterosis task check --json` on every YAML file in it. --list prints the
files that were not read for a reason, by the name of the key (or '' for those that are read).
"""
import argparse, collections, json, pathlib, subprocess

import lm_eval

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--heterosis", default="heterosis")
parser.add_argument("--list")
args = parser.parse_args()
root = pathlib.Path(lm_eval.__file__).parent / "tasks"
files = sorted(map(str, root.rglob("*.yaml")))
reasons, folders, sizes = collections.Counter(), collections.Counter(), collections.Counter()
for start in range(0, len(files), 400):
    done = subprocess.run([args.heterosis, "task", "check", "--json", *files[start:start + 400]], stdout=subprocess.PIPE, check=True)
    for checked in json.loads(done.stdout)["tasks"]:
        message = checked.get("message", "")
        if checked["ok"]:
            reason = "a group, read" if "#" in "".join(checked["tasks"]) or len(checked["tasks"]) > 1 else "read"
        elif "needs Python" in message:
            reason = f"needs Python: {checked['key']}"
        elif checked.get("key"):
            reason = f"{checked['key']}: {message.split(checked['key'] + ': ')[-1]}"
        else:
            reason = message.split(": ", 1)[-1][:80]
        reasons[reason] += 1
        folder = pathlib.Path(checked["task"]).relative_to(root).parts[0]
        folders[folder] += checked["ok"]
        sizes[folder] += 1
        if args.list is not None and (args.list in reason or args.list == "" and checked["ok"]):
            print(checked["task"], message)
print(f"lm-eval {lm_eval.__version__}: {len(files)} files")
for reason, count in reasons.most_common(60):
    print(f"{count:6}  {reason}")
whole = sorted(folder for folder in sizes if folders[folder] == sizes[folder])
part = sorted((folder for folder in sizes if 0 < folders[folder] < sizes[folder]), key=lambda f: -folders[f])
print(f"{len(whole)} folders whole: {' '.join(whole)}")
print(f"{len(part)} in part: {' '.join(f'{f} {folders[f]}/{sizes[f]}' for f in part)}")
