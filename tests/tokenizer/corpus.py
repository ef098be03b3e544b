"""Text to tokenize: English, Chinese, code, emoji, control characters and invalid UTF-8, from a seed alone."""

import random
import sys
import unicodedata

ENGLISH = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what its about
than into them can only other time new some could these two may first then do any like my now over such our man me even
most made after also did many before must through back years where much your way well down should because each just
state those people how too little good world very year still see own work men day get here between both life being under
never same another know while last might us great old off come since against go came right used take three himself few
house American use place during high without again home around small however found part school general once upon every
don't I'm we've they'll it's he'd you're O'Neill naïve café résumé Zürich straße coöperate""".split()
HANZI = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运笔"
PHRASES = ["帮我打开微信", "给张三发消息", "你好，世界！", "こんにちは、元気ですか。", "안녕하세요 세계", "Привет, мир!", "مرحبا بالعالم",
           "नमस्ते दुनिया", "สวัสดีชาวโลก", "שלום עולם", "Γειά σου Κόσμε", "Xin chào thế giới", "ქართული ენა", "ﬁnal ﬂoor №5 ½ ²³ Ⅻ",
           "e\u0301a\u0300o\u0308 A\u030A 각", "ẛ̣ \u0344 \u0390", "１２３ＡＢＣ", "İstanbul ıIiİ ß ẞ ſ"]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇳", "❤️", "☃", "🫨", "🩷", "🪿", "1️⃣", "\u200d", "\ufe0f"]
CODE = ['def f(x: int) -> str:\n    return f"{x!r}"\n', "for (size_t i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "x = {'a': [1, 2.5e-3, None]}\n",
        "SELECT * FROM t WHERE id >= 10 AND name LIKE '%x%';\r\n", "<div class=\"a b\">&nbsp;</div>\n", "#!/bin/sh\nset -eu\n",
        "{\"action\": \"tap\", \"x\": 540, \"y\": 1200}\n", "if(a&&b||!c){return~d^e;}", "https://example.org/a?b=c&d=%20#e", "\\frac{1}{2} \\alpha_{i}^2",
        "0xDEADBEEF 1234567890 3.14159 1_000_000", "it's IT'S we'Ve DON'T 'tis 'LL'll", "AAAAAAAAAAAAAAAAAAAA", "==========>>>>"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u180e", "\u200b", "\u2028", "\x85", "\x0b", "\x0c", "    \n", "\n    "]
SPECIALS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "[gMASK]", "<sop>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>",
            "<eos>", "<mask>", "<unused5>", "<start_of_turn>", "<|begin_of_text|>", "<|eot_id|>", "<|reserved_special_token_3|>", "<0x41>", "<|", "|>", "[MASK", "▁", "▁▁", "Ġ", "</w>"]
BROKEN = [b"\xff", b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98", b"\x80\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\xfe\xff\x00A"]


def _assigned():
    points = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    return points


ASSIGNED = _assigned()


def _piece(rng):
    """One bit of text as bytes."""
    kind = rng.choices(range(11), weights=[30, 14, 10, 7, 6, 4, 4, 4, 3, 2, 3])[0]
    if kind == 0:
        words = [rng.choice(ENGLISH) for _ in range(rng.randint(1, 12))]
        if rng.random() < 0.3:
            words[0] = words[0].capitalize()
        if rng.random() < 0.05:
            words = [w.upper() for w in words]
        return (" ".join(words) + rng.choice([" ", ". ", ", ", "? ", "! ", "; ", "...", " - ", "—", "” ", "\n"])).encode()
    if kind == 1:
        return ("".join(rng.choice(HANZI) for _ in range(rng.randint(1, 30))) + rng.choice(["，", "。", "！", "", "：", " "])).encode()
    if kind == 2:
        return rng.choice(CODE).encode()
    if kind == 3:
        return rng.choice(PHRASES).encode()
    if kind == 4:
        return (rng.choice(EMOJI) * rng.randint(1, 3)).encode()
    if kind == 5:
        return (rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3, 17])).encode()
    if kind == 6:
        return rng.choice(SPECIALS).encode()
    if kind == 7:
        return "".join(chr(rng.choice(ASSIGNED)) for _ in range(rng.randint(1, 6))).encode()
    if kind == 8:
        return bytes(rng.randrange(32) for _ in range(rng.randint(1, 4)))
    if kind == 9:
        return rng.choice(BROKEN)
    return str(rng.randrange(10 ** rng.randint(1, 18))).encode()


def texts(total_bytes, seed=20240229):
    """Byte strings of 0 to a few thousand bytes each, `total_bytes` together."""
    rng = random.Random(seed)
    out, size = [b"", b" ", b"\n", b"\x00", b"a", "中".encode(), b" " * 3000, b"\n" * 2000, b"a" * 5000, b"\xff" * 100, "😀".encode() * 400], 0
    while size < total_bytes:
        pieces = [_piece(rng) for _ in range(rng.choice([1, 2, 3, 5, 8, 20, 60, 150]))]
        joiner = rng.choice([b"", b"", b" ", b"\n"])
        out.append(joiner.join(pieces))
        size += len(out[-1])
    return out
