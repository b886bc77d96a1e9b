"""How llama.cpp and transformers cut texts by the names that GGUF files have for it (`tokenizer.ggml.pre`).

    pip install transformers regex
    python make_splits.py LLAMA_CPP/src/llama-vocab.cpp     # writes splits.json: names that cut alike, text -> pieces

llama.cpp's expressions are read off its source and applied one after the other by the `regex` module, which is not what our
tokenizers use. Where transformers knows the name too it has the last word, since llama.cpp writes some expressions in a way that
its own engine understands; with names that only one of the two knows there is nothing to compare. DeepSeek's digits stand alone, as
in its tokenizer.json and its paper (arXiv:2401.02954); llama.cpp leaves them together, and no token joins any.
"""
import json, pathlib, sys
import regex
from tokenizers import Regex, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

TEXTS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs.", "Question: 3 trays of 24 rolls (at $1.50 each).\nAnswer: 72 #### 72",
    " leading, trailing  and   several    spaces \t\ttabs\n\n\nlines\r\n", "¿Cuántas manzanas? Él compró diez; ella, 1.234,56.",
    "東京の人口は約1400万人です。ロジャーは、5個!", "한국어 텍스트 2024년", "Сколько будет 7 · 8? Ответ — 56.", "ประเทศไทย ৪২টি আম తెలుగు العربية עברית",
    "nai\u0308ve cafe\u0301 ﬁ ½ ² Å ℵ ǅ", "👩‍🚀🚀 emoji, \u200bzero width and \u00a0no-break", "def f(x):\n    return {'a': x**2, \"b\": [1,2,3]}  # it's we'll I'D",
    "ALL CAPS THEY'RE 007 camelCaseWords/path/to.file_name\n//comment", "Ὀδύσσεια Ա բ ა Ⴀ ꙁ Ꞑ 𐐀𐐨 ～！“quoted”", "\n", "   ", "x   ",
]
# Names that GGUF files of the architectures read here have, or may have.
NAMES = """gpt-2 olmo phi-2 mpt jais trillion exaone4 gigachat mellum a.x-4.0 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code
roberta-bpe llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe glm4 qwen2
deepseek-r1-qwen megrez stablelm2 hunyuan kormo f2llmv2 qwen35 tekken gpt-4o llama4 kanana2 talkie minimax-m2 smollm refact starcoder
command-r codeshell exaone minerva-7b seed-coder deepseek-llm deepseek-coder deepseek-v3 hunyuan-dense bloom poro-chat gpt3-finnish viking""".split()


def source_expressions(path):
    """name -> expressions, off llama.cpp's source."""
    source = pathlib.Path(path).read_text()
    kinds = {}
    for condition, kind in regex.findall(r"if \(\s*((?:tokenizer_pre == \"[^\"]+\"[\s|]*)+)\)\s*\{\s*pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+);", source):
        kinds |= dict.fromkeys(regex.findall(r'"([^"]+)"', condition), kind)
    body = source[source.index("struct llm_tokenizer_bpe"):]
    found = {}
    for cases, block in regex.findall(r"((?:case LLAMA_VOCAB_PRE_TYPE_\w+:\s*(?://[^\n]*\s*)*)+)regex_exprs = \{(.*?)\n\s*\};", body, regex.S):
        lines = "\n".join(line for line in block.splitlines() if not line.strip().startswith("//"))
        values = [unescaped(literal) for literal in regex.findall(r'"((?:[^"\\]|\\.)*)"', lines)]
        found |= dict.fromkeys(regex.findall(r"PRE_TYPE_(\w+):", cases), values)
    return {name: found[kind] for name, kind in kinds.items() if kind in found}


def unescaped(literal):
    """A C++ string literal's value."""
    simple = {"n": "\n", "r": "\r", "t": "\t"}
    literal = regex.sub(r"\\U([0-9a-fA-F]{8})", lambda m: chr(int(m[1], 16)), literal)
    return regex.sub(r"\\(.)", lambda m: simple.get(m[1], m[1]), literal)


def cut(text, expressions):
    pieces = [text]
    for expression in expressions:
        cut, rule = [], regex.compile(expression)
        for piece in pieces:
            at = 0
            for match in rule.finditer(piece):
                cut += [piece[at:match.start()], match[0]]
                at = match.end()
            cut.append(piece[at:])
        pieces = [piece for piece in cut if piece]
    return pieces


def main(path):
    known, out = source_expressions(path), {}
    for name in NAMES:
        expressions = known.get(name)
        if name == "deepseek-llm":
            assert expressions[-1] == r"\p{N}+"
            expressions = expressions[:-1] + [r"\p{N}"]
        theirs = {text: cut(text, expressions) for text in TEXTS} if expressions else None
        if name in GGUF_PRE_TOKENIZER_SPLITS:
            split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated")
            ours = {text: [piece for piece, _ in split.pre_tokenize_str(text)] for text in TEXTS}
            if theirs:
                print(f"{name}: llama.cpp cuts {sum(ours[t] != theirs[t] for t in TEXTS)} texts otherwise than transformers")
            theirs = ours
        if theirs:
            out[name] = theirs
        else:
            print(f"{name}: known to neither")
    file = pathlib.Path(__file__).parent / "splits.json"
    groups = []
    for name, texts in out.items():
        alike = next((group for group in groups if group["texts"] == texts), None)
        if alike is None:
            groups.append(alike := dict(names=[], texts=texts))
        alike["names"].append(name)
    file.write_text("[\n" + ",\n".join(json.dumps(group, ensure_ascii=False) for group in groups) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
