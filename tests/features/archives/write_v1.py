"""Writes v1.h5, the archive of format version 1: python tests/features/archives/write_v1.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from helpers import make_plan, write_store_of

if __name__ == "__main__":
    target = Path(__file__).with_name("v1.h5")
    target.unlink(missing_ok=True)
    write_store_of(target, make_plan())
