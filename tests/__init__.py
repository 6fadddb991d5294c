"""How annotations are checked in tests: an int is welcome where a float is asked for (PEP 484)."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
