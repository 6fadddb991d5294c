"""All demonstrations in the lecture's order, and the corpus that the later ones need."""

from collections.abc import Iterator

from jax_attn.data import Corpus, load_corpus
from jax_attn.errors import InputError
from jax_attn.lecture.corpus_demonstrations import CORPUS_DEMONSTRATIONS
from jax_attn.lecture.tensor_demonstrations import TENSOR_DEMONSTRATIONS, ManualSeed, Values


def demonstrate(manual_seed: ManualSeed) -> Iterator[tuple[str, Values]]:
    """Title and values of one demonstration after the other; InputError without the corpus."""
    for demonstration in TENSOR_DEMONSTRATIONS:
        yield demonstration.title, demonstration.compute(manual_seed)
    corpus = lecture_corpus()
    for demonstration in CORPUS_DEMONSTRATIONS:
        yield demonstration.title, demonstration.compute(manual_seed, corpus)


def lecture_corpus() -> Corpus:
    """The lecture's text, and no other in its place: InputError when it cannot be had."""

    def refuse(warning: str) -> None:
        missing = warning.partition(";")[0]
        raise InputError(f"{missing}; its numbers need that text: set JAX_ATTN_CACHE to its folder")

    return load_corpus("tinyshakespeare", warn=refuse)
