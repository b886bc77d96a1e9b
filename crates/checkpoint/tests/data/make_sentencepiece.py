"""A small SentencePiece BPE model with byte fallback, and what transformers encodes and decodes with it.

    pip install transformers sentencepiece protobuf
    python make_sentencepiece.py sentencepiece
"""
import json, pathlib, sys, tempfile
import sentencepiece
from transformers import LlamaTokenizer

TEXTS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs.",
    " leading, trailing  and   several    spaces \t\ttabs\n\n\nlines\r\n",
    "Question: A baker has 3 trays of 24 rolls (at $1.50 each).\nAnswer: 3 × 24 = 72 #### 72",
    "¿Cuántas manzanas tiene María? Él compró diez; ella, 1.234,56.",
    "東京の人口は約1400万人です。ロジャーはボールを5個持っています。",
    "Сколько будет 7 · 8? Ответ — 56.", "ประเทศไทย", "৪২টি আম", "తెలుగు", "العربية", "עברית", "한국어 문장",
    "naïve café e\u0301tude ﬁ ½ ² Å", "👩‍🚀🚀 emoji, \u200b zero width and \xa0 no-break",
    "def f(x):\n    return {'a': x**2, \"b\": [1,2,3]}  # it's we'll I'D", "", " ", "▁", "a<s>b</s> c<unk>", "<|user|>hello<|end|> world",
    "x <|user|> y<|end|>", "<tool>text</tool>",
]


def main(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        corpus = pathlib.Path(tmp) / "corpus.txt"
        corpus.write_text("\n".join([text for text in TEXTS if text.strip()] * 20))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(out / "tokenizer"), model_type="bpe", vocab_size=520, byte_fallback=True,
            character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
            allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"], self_test_sample_size=0, num_threads=1)
        (out / "tokenizer.vocab").unlink()
        added = {"520": dict(content="<|user|>", special=True, lstrip=False, rstrip=False, normalized=False, single_word=False),
                 "521": dict(content="<|end|>", special=False, lstrip=False, rstrip=True, normalized=False, single_word=False)}
        cases = []
        # Said in so many words: LlamaTokenizer's documentation has BOS by default, its code in transformers 5.24 has not.
        for settings in [{"add_bos_token": True}, {"add_bos_token": True, "legacy": True},
                         {"add_bos_token": False, "add_eos_token": True}, {"add_bos_token": True, "added_tokens_decoder": added}]:
            home = pathlib.Path(tmp) / str(len(cases))
            home.mkdir()
            (home / "tokenizer.model").write_bytes((out / "tokenizer.model").read_bytes())
            (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **settings}))
            tokenizer = LlamaTokenizer.from_pretrained(home)
            rows = []
            for text in TEXTS:
                ids = tokenizer.encode(text)
                rows.append(dict(text=text, ids=ids, decoded=tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)))
            cases.append(dict(settings=settings, added=None, texts=rows))
    (out / "texts.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


main(sys.argv[1])
