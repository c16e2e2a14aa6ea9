"""The functions of Box and Muller in float64, without branches: loops over them become vectors.

Their errors are near one unit in the last place of a float64, so that a normal in float32 has the
bits that torch's functions give it.
"""

from __future__ import annotations

import math
from typing import Any

from l0func.kernels.by_numba.bits import bits_of_double, double_of
from l0func.kernels.by_numba.numba_names import numpy as np


def radius(u: Any) -> Any:
    """sqrt(-2 log(u)), for u in [2⁻³³, 1).

    Source: the logarithm in FreeBSD's libm, e_log.c.
    """
    bits, shift = bits_of_double(u), np.uint64(52)
    # The mantissa in [sqrt(1/2), sqrt(2)), and its exponent with 64 added: an unsigned number.
    lift = np.uint64(64) << shift
    raised = (bits - np.uint64(0x3FE6A09E667F3BCD) + lift) >> shift
    f = double_of(bits - (raised << shift) + lift) - 1.0
    exponent = np.float64(np.int32(raised)) - 64.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = 1.531383769920937332e-01 * w + 2.222219843214978396e-01
    odd = odd * w + 3.999999999940941908e-01
    even = 1.479819860511658591e-01 * w + 1.818357216161805012e-01
    even = even * w + 2.857142874366239149e-01
    even = even * w + 6.666666666666735130e-01
    half = 0.5 * f * f
    # log(2) in two parts: the first has few bits, so that its product is exact.
    small = s * (half + (odd * w + even * z)) + exponent * 1.90821492927058770002e-10
    log = exponent * 6.93147180369123816490e-01 - ((half - small) - f)
    return math.sqrt(-2.0 * log)


def cosine_and_sine(angle: Any) -> Any:
    """cos(angle) and sin(angle), for an angle in [0, 2π].

    Source: FreeBSD's libm, k_cos.c and k_sin.c.
    """
    quarter = np.rint(angle * 0.63661977236758134308)
    # π/2 in two parts, as above.
    x = angle - quarter * 1.57079632673412561417
    x = x - quarter * 6.07710050650619224932e-11
    near_cosine, near_sine = _near_cosine(x), _near_sine(x)
    turn = np.int32(quarter)
    swapped = (turn & np.int32(1)) == np.int32(1)
    cosine = near_sine if swapped else near_cosine
    sine = near_cosine if swapped else near_sine
    cosine = -cosine if ((turn + np.int32(1)) & np.int32(2)) == np.int32(2) else cosine
    sine = -sine if (turn & np.int32(2)) == np.int32(2) else sine
    return cosine, sine


def _near_cosine(x: Any) -> Any:
    z = x * x
    r = -1.13596475577881948265e-11 * z + 2.08757232129817482790e-09
    r = r * z - 2.75573143513906633035e-07
    r = r * z + 2.48015872894767294178e-05
    r = r * z - 1.38888888888741095749e-03
    r = r * z + 4.16666666666666019037e-02
    half = 0.5 * z
    large = 1.0 - half
    return large + (((1.0 - large) - half) + z * (z * r))


def _near_sine(x: Any) -> Any:
    z = x * x
    r = 1.58969099521155010221e-10 * z - 2.50507602534068634195e-08
    r = r * z + 2.75573137070700676789e-06
    r = r * z - 1.98412698298579493134e-04
    r = r * z + 8.33333333332248946124e-03
    return x + z * x * (r * z - 1.66666666666666324348e-01)
