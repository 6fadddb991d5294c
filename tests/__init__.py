"""How annotations are checked in tests: an int is welcome where a float is asked for (PEP 484)."""

import sys
from importlib.util import find_spec

if find_spec("beartype") is None:
    print(
        "error: the tests' libraries are not installed: pip install -e '.[test]'", file=sys.stderr
    )
    sys.exit(2)

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
