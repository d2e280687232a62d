"""`python -m pvhdbg`."""

import sys

try:
    from pvhdbg.cli.program import program
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(program())
