"""The vocabulary in float64, without branches: the compiler turns loops over it into vectors."""

from __future__ import annotations

from typing import Any

from l0func.kernels.by_numba.bits import bits_of_double, double_of
from l0func.kernels.by_numba.numba_names import numpy as np
from l0func.kernels.by_numba.scalars import sqrt, where

# exp and log are those of the FreeBSD library (Sun Microsystems, 1993), ndtri is that of Cephes.


def exp(x: Any) -> Any:
    """The exponential, to one unit in the last place."""
    return _exp_of_sum(x, 0.0)


def _exp_of_sum(x: Any, rest: Any) -> Any:
    """exp(x + rest), for a rest too small to be added to x."""
    clamped = where(x > 710.0, 710.0, where(x < -746.0, -746.0, x))
    count = np.rint(clamped * 1.4426950408889634)
    # log(2) in two parts: the first has few bits, so that its product with the count is exact.
    high = clamped - count * 6.93147180369123816490e-01
    low = count * 1.90821492927058770002e-10 - rest
    r = high - low
    square = r * r
    p = 4.13813679705723846039e-08 * square - 1.65339022054652515390e-06
    p = p * square + 6.61375632143793436117e-05
    p = p * square - 2.77777777770155933842e-03
    p = p * square + 1.66666666666666019037e-01
    c = r - square * p
    value = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    # In two steps: one power of two alone would overflow before the product does.
    half = np.int64(count) >> np.int64(1)
    rest_of_count = np.int64(count) - half
    return value * _power_of_two(half) * _power_of_two(rest_of_count)


def _power_of_two(n: Any) -> Any:
    return double_of(np.uint64((n + np.int64(1023)) << np.int64(52)))


def log(x: Any) -> Any:
    """The natural logarithm."""
    tiny = x < 2.2250738585072014e-308
    scaled = where(tiny, x * 18014398509481984.0, x)
    bits = bits_of_double(scaled)
    # The mantissa in [sqrt(1/2), sqrt(2)), and its exponent.
    exponent = np.int64(bits - np.uint64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    f = double_of(bits - np.uint64(exponent << np.int64(52))) - 1.0
    e = np.float64(exponent) - where(tiny, 54.0, 0.0)
    s = f / (2.0 + f)
    z = s * s
    p = 1.479819860511658591e-01 * z + 1.531383769920937332e-01
    p = p * z + 1.818357216161805012e-01
    p = p * z + 2.222219843214978396e-01
    p = p * z + 2.857142874366239149e-01
    p = p * z + 3.999999999940941908e-01
    p = p * z + 6.666666666666735130e-01
    half = 0.5 * f * f
    low = s * (half + p * z) + e * 1.90821492927058770002e-10
    value = e * 6.93147180369123816490e-01 - ((half - low) - f)
    infinite = np.float64(np.inf)
    value = where(x == infinite, infinite, value)
    value = where(x == 0.0, -infinite, value)
    return where(x < 0.0, np.float64(np.nan), where(x != x, x, value))


def expm1(x: Any) -> Any:
    """exp(x) - 1, accurate for small x."""
    r = where(x > 0.5, 0.5, where(x < -0.5, -0.5, x))
    tail = 4.779477332387385e-14 * r + 7.647163731819816e-13
    tail = tail * r + 1.1470745597729725e-11
    tail = tail * r + 1.6059043836821613e-10
    tail = tail * r + 2.08767569878681e-09
    tail = tail * r + 2.505210838544172e-08
    tail = tail * r + 2.755731922398589e-07
    tail = tail * r + 2.7557319223985893e-06
    tail = tail * r + 2.48015873015873e-05
    tail = tail * r + 0.0001984126984126984
    tail = tail * r + 0.001388888888888889
    tail = tail * r + 0.008333333333333333
    tail = tail * r + 0.041666666666666664
    tail = tail * r + 0.16666666666666666
    tail = tail * r + 0.5
    near = tail * r * r + r
    return where(r == x, near, exp(x) - 1.0)


def ndtr(x: Any) -> Any:
    """The standard normal distribution function, accurate in its left tail too."""
    a = where(x < 0.0, -x, x)
    a = where(a > 39.0, 39.0, a)
    # exp(-a²/2) from two parts of a²: the first is exact, because its root has 26 bits.
    head = double_of(bits_of_double(a) & np.uint64(0xFFFFFFFFF8000000))
    density = _exp_of_sum(-0.5 * head * head, -0.5 * (a - head) * (a + head))
    t = 1.0 / (a + 3.0)
    ratio = -270072138.6121941 * t + 646638415.1808581
    ratio = ratio * t - 660246800.1967232
    ratio = ratio * t + 350089764.5558006
    ratio = ratio * t - 76439945.9232146
    ratio = ratio * t - 21012248.394940834
    ratio = ratio * t + 21788826.60831689
    ratio = ratio * t - 8001869.035056629
    ratio = ratio * t + 1795784.6661899292
    ratio = ratio * t - 301545.66625521344
    ratio = ratio * t + 42952.18846516126
    ratio = ratio * t - 3239.963690351991
    ratio = ratio * t + 96.2684424866401
    ratio = ratio * t - 176.38544767162472
    ratio = ratio * t - 37.425830970576584
    ratio = ratio * t + 7.149200991759662
    ratio = ratio * t + 11.969135580664831
    ratio = ratio * t + 7.180943923726189
    ratio = ratio * t + 3.191538473283259
    ratio = ratio * t + 1.1968268393287085
    ratio = ratio * t + 0.3989422804084112
    tail = ratio * density / (a + 3.0)
    square = x * x
    near = -1.6878231631896875e-13 * square + 5.003033458919368e-12
    near = near * square - 1.1285002144059668e-10
    near = near * square + 2.2733770173468317e-09
    near = near * square - 4.122657837266453e-08
    near = near * square + 6.659693114915888e-07
    near = near * square - 9.444656248413156e-06
    near = near * square + 0.00011543468761421087
    near = near * square - 0.001187328215480253
    near = near * square + 0.009973557010035806
    near = near * square - 0.06649038006690544
    near = near * square + 0.3989422804014327
    far = where(x > 0.0, 1.0 - tail, tail)
    return where(a < 1.0, 0.5 + x * near, far)


def ndtri(u: Any) -> Any:
    """The inverse of ``ndtr``: three ratios of polynomials."""
    v = where(u > 0.8646647167633873, 1.0 - u, u)
    x = sqrt(-2.0 * log(v))
    z = 1.0 / x
    ratio = where(x >= 8.0, _ndtri_far(z), _ndtri_near(z))
    distance = where(v == 0.0, np.float64(np.inf), x - log(x) / x - z * ratio)
    tail = where(u > 0.5, distance, -distance)
    return where(v > 0.1353352832366127, _ndtri_middle(u - 0.5), tail)


def _ndtri_middle(y: Any) -> Any:
    square = y * y
    over = -59.96335010141079 * square + 98.00107541859997
    over = over * square - 56.67628574690703
    over = over * square + 13.931260938727968
    over = over * square - 1.2391658386738125
    under = 1.0 * square + 1.9544885833814176
    under = under * square + 4.676279128988815
    under = under * square + 86.36024213908905
    under = under * square - 225.46268785411937
    under = under * square + 200.26021238006066
    under = under * square - 82.03722561683334
    under = under * square + 15.90562251262117
    under = under * square - 1.1833162112133
    return (y + y * (square * over / under)) * 2.5066282746310002


def _ndtri_near(z: Any) -> Any:
    over = 4.0554489230596245 * z + 31.525109459989388
    over = over * z + 57.16281922464213
    over = over * z + 44.08050738932008
    over = over * z + 14.684956192885803
    over = over * z + 2.1866330685079025
    over = over * z - 0.1402560791713545
    over = over * z - 0.03504246268278482
    over = over * z - 0.0008574567851546854
    under = 1.0 * z + 15.779988325646675
    under = under * z + 45.39076351288792
    under = under * z + 41.3172038254672
    under = under * z + 15.04253856929075
    under = under * z + 2.504649462083094
    under = under * z - 0.14218292285478779
    under = under * z - 0.03808064076915783
    under = under * z - 0.0009332594808954574
    return over / under


def _ndtri_far(z: Any) -> Any:
    over = 3.2377489177694603 * z + 6.915228890689842
    over = over * z + 3.9388102529247444
    over = over * z + 1.3330346081580755
    over = over * z + 0.20148538954917908
    over = over * z + 0.012371663481782003
    over = over * z + 0.00030158155350823543
    over = over * z + 2.6580697468673755e-06
    over = over * z + 6.239745391849833e-09
    under = 1.0 * z + 6.02427039364742
    under = under * z + 3.6798356385616087
    under = under * z + 1.3770209948908132
    under = under * z + 0.21623699359449663
    under = under * z + 0.013420400608854318
    under = under * z + 0.00032801446468212774
    under = under * z + 2.8924786474538068e-06
    under = under * z + 6.790194080099813e-09
    return over / under
