"""torch, the other side of most benchmarks; one without it ends with one line and exit code 2.

For main modules only: importing this may end the process.
"""

import sys
from importlib.util import find_spec

if find_spec("torch") is None:
    print(
        "error: torch is not installed, and it is what is compared with: pip install -e '.[test]'",
        file=sys.stderr,
    )
    sys.exit(2)
