"""`python -m pvhdbg`."""

import sys

from pvhdbg.cli.program import program

sys.exit(program())
