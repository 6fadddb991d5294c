"""Printed outputs of the cells that need the corpus, by the name of the quantity.

All from notebook 004 but those at the end, from the lecture's public repository: its notebook
`gpt-dev.ipynb` and its script `bigram.py`.
"""

from jax_attn.lecture.published import Published, published

# fmt: off
_FIRST_1000 = (
    "First Citizen:\n"
    "Before we proceed any further, hear me speak.\n"
    "\n"
    "All:\n"
    "Speak, speak.\n"
    "\n"
    "First Citizen:\n"
    "You are all resolved rather to die than to famish?\n"
    "\n"
    "All:\n"
    "Resolved. resolved.\n"
    "\n"
    "First Citizen:\n"
    "First, you know Caius Marcius is chief enemy to the people.\n"
    "\n"
    "All:\n"
    "We know't, we know't.\n"
    "\n"
    "First Citizen:\n"
    "Let us kill him, and we'll have corn at our own price.\n"
    "Is't a verdict?\n"
    "\n"
    "All:\n"
    "No more talking on't; let it be done: away, away!\n"
    "\n"
    "Second Citizen:\n"
    "One word, good citizens.\n"
    "\n"
    "First Citizen:\n"
    "We are accounted poor citizens, the patricians good.\n"
    "What authority surfeits on would relieve us: if they\n"
    "would yield us but the superfluity, while it were\n"
    "wholesome, we might guess they relieved us humanely;\n"
    "but they think we are too dear: the leanness that\n"
    "afflicts us, the object of our misery, is as an\n"
    "inventory to particularise their abundance; our\n"
    "sufferance is a gain to them Let us revenge this with\n"
    "our pikes, ere we become rakes: for the gods know I\n"
    "speak this in hunger for bread, not in thirst for revenge.\n"
    "\n"
)
_FIRST_SAMPLE = (
    "\n"
    "lfJeukRuaRJKXAYtXzfJ:HEPiu--sDioi;ILCo3pHNTmDwJsfheKRxZCFs\n"
    "lZJ XQc?:s:HEzEnXalEPklcPU cL'DpdLCafBheH"
)
_TRAINED_SAMPLE = (
    "\n"
    "Cosp gr o n g co,\n"
    "LORire tewe hine thaillo ethal tat ckn mbenthereld Myonoupayod moth h ind lilave"
    "n hanere, iokiverse my doupere, feary, 'st mey?\n"
    "IO:\n"
    "Bu ith, ly' isped stu m pr\n"
    "pl l INENoforothe I n:\n"
    "Hen!owaimy ayshe 'Bern ke\n"
    "Winghed t he Thivererenyomizeyout,\n"
    "ICENE:\n"
    "TYou yor itrthe so nd pan b, thed henilat?\n"
    "Ay ue hever terereadund s t,\n"
    "Wealeyons t t\n"
    "Sor putingheie'HENUSels cong f fons y tso achibes ay d f is!\n"
    "ralencindlal thad, Me s hero hin!\n"
    "\n"
    "\n"
    "D:\n"
    "IUSppl t; I mad, m.\n"
    "Yoreves imy wicheri? hall."
)
_LECTURE_SAMPLE = (
    "\n"
    "SKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3bLIgwevmyFJGUGp\n"
    "wnYWmnxKWWev-tDqXErVKLgJ"
)
_SCRIPT_SAMPLE = (
    "\n"
    "MARI he avayokis erceller thour d, myono thishe me tord se by he me, Forder anen"
    ": at trselorinjulour t yoru thrd wo ththathy IUShe bavidelanoby man ond be jus a"
    "s g e atot Meste hrle s, ppat t JLENCOLIUS:\n"
    "Oppid tes d s o ged moer y pevehear soue maramapay fo t: bueyo malalyo!\n"
    "Duir.\n"
    "Fl ke it I t l o'ddre d ondu s?\n"
    "cr, havetrathackes w.\n"
    "PUpee meshancun, hrendspouthoulouren whel's'sesoread pe, s whure our heredinseth"
    "es; sedsend r lo pamit,\n"
    "QUMIVIVIOfe m ne RDINid we tr ort; t:\n"
    "MINENXI l dintandore r"
)
# fmt: on
_CONTEXTS = """
when input is tensor([18]) the target is 47
when input is tensor([18, 47]) the target is 56
when input is tensor([18, 47, 56]) the target is 57
when input is tensor([18, 47, 56, 57]) the target is 58
when input is tensor([18, 47, 56, 57, 58]) the target is 1
when input is tensor([18, 47, 56, 57, 58,  1]) the target is 15
when input is tensor([18, 47, 56, 57, 58,  1, 15]) the target is 47
when input is tensor([18, 47, 56, 57, 58,  1, 15, 47]) the target is 58
"""
_BATCH_CONTEXTS = """
when input is [1] the target is 60
when input is [1, 60] the target is 39
when input is [1, 60, 39] the target is 47
when input is [1, 60, 39, 47] the target is 50
when input is [1, 60, 39, 47, 50] the target is 1
when input is [1, 60, 39, 47, 50, 1] the target is 63
when input is [1, 60, 39, 47, 50, 1, 63] the target is 53
when input is [1, 60, 39, 47, 50, 1, 63, 53] the target is 59
when input is [46] the target is 43
when input is [46, 43] the target is 39
when input is [46, 43, 39] the target is 60
when input is [46, 43, 39, 60] the target is 43
"""

CORPUS_NUMBERS: dict[str, Published] = {
    # The corpus and its tokens.
    "bytes": published("1115394", "004 In [5]"),
    "characters": published("1115394", "004 In [47]"),
    "text[:1000]": Published(_FIRST_1000, ("004 In [48]",)),
    "vocabulary": Published(
        "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", ("004 In [49]",)
    ),
    "vocab_size": published("65", "004 In [49]"),
    "encode('hello, there!')": published("46 43 50 50 53 6 1 58 46 43 56 43 2", "004 In [50]"),
    "decode(encode('hello, there!'))": published("hello, there!", "004 In [50]"),
    "tokens.shape": published("1115394", "004 In [51]"),
    "tokens[:100]": published(
        """
18 47 56 57 58  1 15 47 58 47 64 43 52 10  0 14 43 44 53 56
43  1 61 43  1 54 56 53 41 43 43 42  1 39 52 63  1 44 59 56
58 46 43 56  6  1 46 43 39 56  1 51 43  1 57 54 43 39 49  8
 0  0 13 50 50 10  0 31 54 43 39 49  6  1 57 54 43 39 49  8
 0  0 18 47 56 57 58  1 15 47 58 47 64 43 52 10  0 37 53 59
""",
        "004 In [51]",
    ),
    "train and validation": published("1003854 111540", "004 In [53]"),
    "train[:9]": published("18 47 56 57 58  1 15 47 58", "004 In [54]"),
    "contexts of train[:9]": published(_CONTEXTS, "004 In [55]"),
    # A batch and an untrained bigram model, from one stream of seed 1337.
    "inputs.shape": published("4 8", "004 In [56]"),
    "inputs": published(
        """
 1 60 39 47 50  1 63 53
46 43 39 60 43 52  1 44
 1 46 43 56 43  1 63 53
61 47 50 50  1 57 39 63
""",
        "004 In [56]",
    ),
    "targets.shape": published("4 8", "004 In [56]"),
    "targets": published(
        """
60 39 47 50  1 63 53 59
43 39 60 43 52  1 44 53
46 43 56 43  1 63 53 59
47 50 50  1 57 39 63  0
""",
        "004 In [56]",
    ),
    "contexts of the batch": published(
        _BATCH_CONTEXTS, "004 In [56]", note="the published output is cut off here"
    ),
    "logits.shape": published("32 65", "004 In [57]"),
    "loss": published("4.5629", "004 In [57]"),
    "sample": Published(_FIRST_SAMPLE, ("004 In [57]",)),
    # The same model, trained.
    "loss after training": published(
        "2.440112590789795",
        "004 In [37]",
        decimals=5,
        note="two trainings of 10,000 steps, the second 384 draws after seed 1337: inferred",
    ),
    "sample after training": Published(_TRAINED_SAMPLE, ("004 In [38]",)),
    # The lecture's repository.
    "inputs[0]": published("24 43 58  5 57  1 46 43", "gpt-dev.ipynb"),
    "loss, seeded again": published("4.8786", "gpt-dev.ipynb"),
    "sample, seeded again": Published(_LECTURE_SAMPLE, ("gpt-dev.ipynb",)),
    "loss after 100 steps": published("4.65630578994751", "gpt-dev.ipynb", decimals=5),
    "losses of bigram.py": published(
        """
4.7305 4.7241
2.8110 2.8249
2.5434 2.5682
2.4932 2.5088
2.4863 2.5035
2.4665 2.4921
2.4683 2.4936
2.4696 2.4846
2.4638 2.4879
2.4738 2.4911
""",
        "bigram.py",
        note="training and validation loss at every 300th of 3,000 steps",
    ),
    "sample of bigram.py": Published(_SCRIPT_SAMPLE, ("bigram.py run by torch 2.13",)),
}
