"""Products of float32 numbers in a CPU's matrix tiles (Intel's AMX): bfloat16 in, float32 sums out, compiled.

A number v is split into two bfloat16, v = high + low + rest with |rest| ≤ 2⁻¹⁶ |v|, and three of the four products of
parts are summed up in tiles. What is left out, Σ low low', and the rest have either sign where the numbers have: they
come to some 2e-6 √n times the numbers' size, in a sum of n products. With three parts and six products nothing is left
out that float32 would keep ("fine" in names).

A tile is 16 rows of 64 bytes. Split numbers lie in panels of two tiles per part, 4,096 or 6,144 bytes: high of the
first 16 rows (or columns), high of the next 16, then what is lower of both. The left factor's panels have 32 numbers to
sum over in each of their rows; the right one's rows hold pairs, the numbers 2 p and 2 p + 1 of each of 16 columns side
by side.
"""

from grobust.matrix_tiles._instructions import FINE_NUMBERS, NUMBERS, SIDE, STEP, aligned, available

__all__ = ["FINE_NUMBERS", "NUMBERS", "SIDE", "STEP", "aligned", "available"]
