"""The lecture's demonstrations and every number that five published notebooks print for them.

`python -m jax_attn.lecture` computes them with this package, from the notebooks' own seeds and
without torch, and sets each beside what was printed.
"""

from jax_attn.lecture.corpus_numbers import CORPUS_NUMBERS
from jax_attn.lecture.demonstrate import demonstrate, lecture_corpus
from jax_attn.lecture.published import (
    NOT_REPRODUCIBLE,
    Comparison,
    Published,
    compare,
    count_places,
)
from jax_attn.lecture.tensor_numbers import TENSOR_NUMBERS

PUBLISHED: dict[str, Published] = TENSOR_NUMBERS | CORPUS_NUMBERS

__all__ = [
    "NOT_REPRODUCIBLE",
    "PUBLISHED",
    "Comparison",
    "Published",
    "compare",
    "count_places",
    "demonstrate",
    "lecture_corpus",
]
