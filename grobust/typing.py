"""Types that several modules share."""

import os
from typing import Any, TypeAlias

__all__ = ["Array", "ArrayNamespace", "PathLike"]

# An array of any namespace that array-api-compat knows: NumPy, CuPy, torch, array-api-strict.
Array: TypeAlias = Any
ArrayNamespace: TypeAlias = Any
PathLike: TypeAlias = str | os.PathLike[str]
