"""What is made of a file that has a text."""

import pytest

import jax_attn as ja

MARK = "\ufeff"


def text_of(corpus):
    """All that it has to train on and to validate with."""
    return "".join(map(corpus.tokenizer.decode, (corpus.train, corpus.validation)))


class Read:
    """What `load_corpus` makes of a path."""

    def __init__(self, path, encoding="utf-8"):
        self.remarks = []
        self.corpus = ja.load_corpus(str(path), self.remarks.append, encoding=encoding)
        self.text = text_of(self.corpus)


def refusal(path, encoding="utf-8"):
    with pytest.raises(ja.InputError) as caught:
        Read(path, encoding)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


def file_of(folder, content, encoding="utf-8"):
    path = folder / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path
