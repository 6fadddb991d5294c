"""What the bytes of a file are, where they are not the text that they were taken for.

A guess is a candidate that decodes without an error and gives the characters that texts in such an
encoding are full of.
"""

from __future__ import annotations

import codecs
import re
import string

from jax_attn.errors import InputError

# Codecs of strings that are no encodings of texts.
ESCAPES = ("unicode-escape", "raw-unicode-escape", "punycode", "idna", "undefined")
SAMPLE = 1 << 16  # bytes or characters that are looked at
# Characters outside ASCII on which a remark on a valid text is founded: of any, and different ones.
FEWEST, FEWEST_LETTERS = 3, 8

MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
KINDS = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a zip archive, as .docx, .epub, .npz and torch's files are"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"GGUF", "a GGUF model"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"ID3", "a sound"),
    (b"OggS", "a sound"),
    (b"RIFF", "a sound or a film"),
)
# They are texts, but hardly the one that was meant.
TEXTUAL_KINDS = (
    ("%pdf-", "a PDF document"),
    ("{\\rtf", "an RTF document"),
    ("version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    ("<!doctype html", "an HTML page"),
    ("<html", "an HTML page"),
)

_CYRILLIC = "оеаинтсрвлкмдпуя"
_KANA = "".join(map(chr, range(0x3041, 0x3094))) + "、。ー"
_HAN = "的一是不了在人有大上和以就出也生而子那自之可地到用作力主天日本文中小，。"
# Encodings of alphabets that stand between ASCII letters, with what is frequent outside ASCII.
LATIN = {
    "cp1252": "éèàçêâîôûëïùœüöäßñóíáúãõåæø’‘“”–—…°«»£€©¡¿",
    "cp1250": "ąćęłńóśźżěščřžýáíéůňťďőűăşţ„”–’",
    "cp1254": "ığşçöüİâî",
    "mac_roman": "éèàçêâîôûëïùœüöäßñóíáúãõåæø’‘“”–—…«»",
    "cp850": "éèàçêâîôûëïùüöäßñóíáúãõåæø«»",
}
# Of those that make whole words.
OTHERS = {
    "cp1251": _CYRILLIC,
    "koi8-r": _CYRILLIC,
    "cp866": _CYRILLIC,
    "iso8859-5": _CYRILLIC,
    "cp1253": "αοιετσνηυρπκμλςάίόέή",
    "cp1255": "יוהלאמרתבשנםדכחעקפ",
    "cp1256": "اليمونرتبةعدسفهك",
    "cp874": "านรกอเงดมยลวตทส",
    "gb18030": _HAN + "我他这个们来为国说时要会对能得于着过发后",
    "big5": _HAN + "我他這個們來為國說時要會對能得於著過發後",
    "shift_jis": _KANA,
    "euc_jp": _KANA,
    "cp949": "이다는에의가을로하고지를어한은기사도서리나대인자시",
}
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
MANY = "\u3000"  # from here on scripts have too many characters to list
_FREQUENT = set(string.ascii_letters + " \n").union(*OTHERS.values(), *LATIN.values())
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_HIGH = re.compile(rb"[\x80-\xff]+")
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# The characters that cp1252 has in the place of Latin-1's control characters, as those.
_TO_LATIN1 = {
    ord(bytes([byte]).decode("cp1252")): byte
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}


def require_text_encoding(name: str) -> None:
    """InputError unless `name` is that of an encoding of texts which Python knows."""
    try:
        b"a".decode(name, "ignore")  # of texts: "hex" is another kind of codec
        codecs.getincrementaldecoder(name)
        if codecs.lookup(name).name in ESCAPES:
            raise LookupError(name)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"encoding {name!r:.100} is unknown; give one of Python's: utf-8, utf-16, cp1252, "
            "gb18030, …"
        ) from error


def what_else(head: bytes, around: bytes, given: str) -> str | None:
    """What a file is that could not be decoded as `given`, in words with the remedy.

    `head` are its first bytes, `around` those about the place where decoding failed.
    """
    known = identified(head)
    if known is None:
        name = likely_encoding(around)
        known = name and _looks_like(name)
    if known in [_looks_like(name) for name in (given, codecs.lookup(given).name)]:
        name = "UTF-8" if codecs.lookup(given).name == "utf-8" else given
        return f"the rest of it is {name}: this place is damaged, or its end is cut off"
    return known


def identified(head: bytes) -> str | None:
    """The same from the first bytes alone, for what is no text in which ASCII is one byte."""
    for magic, kind in KINDS:
        if head.startswith(magic):
            return f"it is {kind}"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 30:
        return "it is a safetensors file"
    if head[257:262] == b"ustar":
        return "it is a tar archive"
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    name = marked or _wide(head)
    if name is None and (b"\x1b$B" in head or b"\x1b$@" in head):
        name = "iso2022_jp"
    return name and _looks_like(name)


def textual_kind(text: str) -> str | None:
    """What a valid text is, if it is hardly the one that was meant."""
    start = text[:64].lower().lstrip()
    return next((kind for begin, kind in TEXTUAL_KINDS if start.startswith(begin)), None)


def likely_encoding(sample: bytes) -> str | None:
    """The likeliest encoding of some bytes, of those in which ASCII is one byte; None for none."""
    sample = sample[:SAMPLE]
    runs = _HIGH.findall(sample)
    if not runs:
        return None
    n_high, n_utf8 = (sum(map(len, found)) for found in (runs, _UTF8.findall(sample)))
    if n_utf8 == n_high:
        return "utf-8"
    single = n_high < 1.6 * len(runs)
    scores = {
        name: likeness(sample, name, least=1 if single else 4)
        for name in (LATIN if single else OTHERS)
    }
    best = max(scores, key=scores.__getitem__)
    if scores[best] <= 0.5 and 2 * n_utf8 > n_high:
        return "utf-8"
    return best if scores[best] > 0.2 else None


def likeness(sample: bytes, encoding: str, least: int = 1) -> float:
    """Of what is not ASCII, the share that is frequent in such texts; 0 if it does not decode."""
    frequent = LATIN.get(encoding) or OTHERS[encoding]
    text = _decoded(sample, encoding)
    outside = [c for c in text if c > "\x7f"]
    if len(outside) < least:
        return 0.0
    return sum(c in frequent for c in outside) / len(outside)


def beyond_ascii(text: str) -> str:
    """A sample of a text from its first character on that is not ASCII."""
    begin = _NOT_ASCII.search(text)
    return "" if begin is None else text[begin.start() :][:SAMPLE]


def misread(text: str) -> str | None:
    """The encoding of bytes that somebody once read as cp1252 or Latin-1, and wrote as UTF-8.

    None unless all that is not ASCII is such bytes, and more like a text where it is read anew.
    """
    outside = _NOT_ASCII.findall(beyond_ascii(text))
    sample = beyond_ascii(text).translate(_TO_LATIN1).encode("latin-1", "ignore")
    name = likely_encoding(sample)
    if name is None or name in LATIN or sum(map(len, _HIGH.findall(sample))) < len(outside):
        return None
    meant = _NOT_ASCII.findall(_decoded(sample, name))
    if name == "utf-8":
        before = sum(c in LATIN["cp1252"] for c in outside)
        after = sum(c.lower() in _FREQUENT or c >= MANY for c in meant)
        enough = len(meant) >= FEWEST and after * len(outside) > before * len(meant)
    else:
        # In what is written in Latin letters few of those outside ASCII stand together, as here.
        enough = len(set(meant)) >= FEWEST_LETTERS
        enough = enough and (_is_certain(name) or likeness(sample, name) > 0.5)
    return name if enough else None


def decodes_better(sample: bytes, given: str) -> str | None:
    """The encoding of bytes that decode as `given`, if it is likely to be another one."""
    meant, text = likely_encoding(sample), _decoded(sample, given)
    if meant is None or _decoded(sample, meant) == text or _is_certain(given) > _is_certain(meant):
        return None
    few = len(set(_NOT_ASCII.findall(text))) < FEWEST_LETTERS
    return None if few and meant in OTHERS else meant


def _is_certain(encoding: str) -> bool:
    """Whether few bytes are texts in it: those in which a character has several."""
    return len(_decoded(b"\x80", encoding)) == 0


def _looks_like(name: str) -> str:
    return f"it looks like {name}: give --encoding {name}"


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark."""
    for name in WIDE:
        text = _decoded(head[:SAMPLE], name)
        if len(text) > 1 and sum(c in _FREQUENT for c in text) > 0.2 * len(text):
            return name
    return None


def _decoded(sample: bytes, encoding: str) -> str:
    """The characters of a sample, whose last one may be cut off; "" if it does not decode."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample[:SAMPLE])
    except UnicodeError:
        return ""
