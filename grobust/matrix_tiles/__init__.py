"""Products of float32 numbers in a CPU's matrix tiles (Intel's AMX): bfloat16 in, float32 sums out, compiled.

A number v is split into two bfloat16, v = high + low + rest with |rest| ≤ 2⁻¹⁶ |v|, and three of the four products of
parts are summed up in tiles. What is left out, Σ low low', and the rest have either sign where the numbers have: of a
sum of n products they are about 5e-6 / √n of the root mean square's n.

A tile is 16 rows of 64 bytes. Split numbers lie in panels of 4,096 bytes, four tiles: high of the first 16 rows (or
columns), high of the next 16, low of the first, low of the next. The left factor's panels have 32 numbers to sum over
in each of their rows; the right one's rows hold pairs, the numbers 2 p and 2 p + 1 of each of 16 columns side by side.
"""

from grobust.matrix_tiles._instructions import FINE_NUMBERS, NUMBERS, SIDE, STEP, aligned, available

__all__ = ["FINE_NUMBERS", "NUMBERS", "SIDE", "STEP", "aligned", "available"]
