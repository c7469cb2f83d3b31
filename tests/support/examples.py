"""How many examples the tests of properties try: a third of those they name, all of them in ``make crash``."""

from __future__ import annotations

import os

ALL = bool(os.environ.get("SEGMIND_TESTS_ALL_EXAMPLES"))


def examples(most: int) -> int:
    """Return the number for ``max_examples``."""
    return most if ALL else -(-most // 3)
