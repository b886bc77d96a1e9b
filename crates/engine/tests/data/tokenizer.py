"""A small tokenizer and what transformers makes of it: `python tokenizer.py` writes tokenizer/ beside this file."""
import json, pathlib
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, processors, trainers
from transformers import AutoTokenizer

DIR = pathlib.Path(__file__).parent / "tokenizer"
TEXT = ["Question: Janet has 3 apples and buys 14 more. How many apples does she have?\nAnswer: 3 + 14 = <<3+14=17>>17\n#### 17",
        "Pregunta: ¿Cuántas manzanas tiene Álvaro? Él compró 12 y comió 5.\nRespuesta: quedan 7.", "答えは42です。", "naïve café 🙂 ok"] * 3
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>", "<pad>"],
                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
tok.enable_truncation(8)
tok.enable_padding(length=8)
DIR.mkdir(exist_ok=True)
tok.save(str(DIR / "tokenizer.json"), pretty=False)
(DIR / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>",
    pad_token="<pad>", additional_special_tokens=["apples"], clean_up_tokenization_spaces=True)) + "\n")
(DIR / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[1, 2])) + "\n")
hf = AutoTokenizer.from_pretrained(DIR)
cases = []
for text in TEXT[:4] + ["", " ", "  two  spaces ", "<s>already</s> there", "tab\tand\r\nline", "5.5 , don't ! 1,000", "ไทย বাংলা తెలుగు", "👩‍👩‍👧"]:
    with_special, plain = hf(text)["input_ids"], hf(text, add_special_tokens=False)["input_ids"]
    cases.append(dict(text=text, ids=with_special, plain=plain, decoded=hf.decode(with_special, skip_special_tokens=True)))
(DIR / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
