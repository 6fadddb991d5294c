"""tyro, which reads the command lines; a program without it ends with one line and exit code 2.

For the modules of command lines only: importing this may end the process.
"""

import sys

try:
    import tyro
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed, and the command line is read with it: "
        "pip install tyro",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["tyro"]
