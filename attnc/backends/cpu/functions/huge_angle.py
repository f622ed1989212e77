"""Angles so large that pi / 2 in three parts does not reduce them: 2 / pi to 192 bits times the mantissa (Payne and Hanek, 1983).

Whole quarter turns drop out of x * 2 / pi modulo 4: of 2 / pi only the digits from there on are read, in words of 32 bits.
"""

from itertools import pairwise
from typing import Any

from llvmlite import ir
from numba.core import types

from attnc.backends.cpu.functions.exponent import as_float, bias, mantissa_bits
from attnc.backends.cpu.functions.two_floats import Pair, constant, sum_of, times
from attnc.backends.cpu.lanes import I32, Lanes

# 32 zero bits, then the fraction of 2 / pi
_TWO_OVER_PI = (
    0x00000000, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB, 0xDEBBC561, 0xB7246E3A,
    0x424DD2E0, 0x06492EEA, 0x09D1921C, 0xFE1DEB1C, 0xB129A73E, 0xE88235F5, 0x2EBB4484, 0xE99C7026, 0xB45F7E41, 0x3991D639,
    0x835339F4, 0x9C845F8B, 0xBDF9283B, 0x1FF897FF, 0xDE05980F, 0xEF2F118B, 0x5A0A6D1F, 0x6D367ECF, 0x27CB09B7, 0x4F463F66,
    0x9E5FEA2D, 0x7527BAC7, 0xEBE5F17B, 0x3D0739F7, 0x8A5292EA, 0x6BFB5FB1, 0x1F8D5D08, 0x56033046, 0xFC7B6BAB, 0xF0CFBC20,
)  # fmt: skip
_WORD = 2**32 - 1
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)


def _digits(g: Lanes, place: Any, words: int) -> list[Any]:
    """That many words of 2 / pi, from bit `place` on; g: int64."""
    b = g.b
    overlapping = [high << 32 | low for high, low in pairwise(_TWO_OVER_PI)]
    table = _table(b.module, overlapping)
    first, shift = b.lshr(place, g.const(5)), b.sub(g.const(32), b.and_(place, g.const(31)))
    found = []
    for k in range(words):
        double = _look_up(g, table, b.add(first, g.const(k)))
        found.append(b.and_(b.lshr(double, shift), g.const(_WORD)))
    return found


def _table(module: Any, values: list[int]) -> Any:
    found = module.globals.get("attnc.two_over_pi")
    if found is None:
        kind = ir.ArrayType(ir.IntType(64), len(values))
        found = ir.GlobalVariable(module, kind, "attnc.two_over_pi")
        found.linkage, found.global_constant = "internal", True
        found.initializer = ir.Constant(kind, values)
    return found


def _look_up(g: Lanes, table: Any, places: Any) -> Any:
    b, zero = g.b, ir.Constant(I32, 0)
    if g.width is None:
        return b.load(b.gep(table, [zero, places]))
    result = ir.Constant(g.type, ir.Undefined)
    for k in range(g.width):
        lane = ir.Constant(I32, k)
        one = b.load(b.gep(table, [zero, b.extract_element(places, lane)]))
        result = b.insert_element(result, one, lane)
    return result


def _product(g: Lanes, digits: list[Any], mantissa: Any, halves: int) -> list[Any]:
    """The words of digits * mantissa, without those that overflow at the front; mantissa has 32 bits for each of `halves`."""
    b, word, width = g.b, g.const(_WORD), g.const(32)
    low, high = b.and_(mantissa, word), b.lshr(mantissa, width)
    words, carry, above = [], g.const(0), g.const(0)
    for k in reversed(range(len(digits))):
        part = b.mul(digits[k], low)
        total = b.add(b.add(carry, above), b.and_(part, word))
        above = b.lshr(part, width)
        if halves == 2 and k + 1 < len(digits):
            total = b.add(total, b.mul(digits[k + 1], high))  # below 2**53: the upper half has 21 bits
        words.append(b.and_(total, word))
        carry = b.lshr(total, width)
    return words[::-1]


def quarter_turns(g: Lanes, x: Any) -> tuple[Pair, Any]:
    """The angle of |x| >= 2 left after the nearest number of quarter turns, as two floats, and that number modulo 4.

    g.integer holds the number. An infinite x or NaN gives anything.
    """
    wide, turn = g.of(types.int64), g.of(types.float64)
    b = g.b
    bits = b.bitcast(g.call("fabs", x), g.integer.type)
    bits = bits if g.bits == 64 else b.zext(bits, wide.type)
    width = mantissa_bits(g)
    mantissa = b.or_(b.and_(bits, wide.const(2**width - 1)), wide.const(2**width))
    # x is mantissa * 2**e; the bit of weight 2 in 2**e * 2 / pi stands at 30 + e. Infinities read inside the table.
    place = b.sub(b.lshr(bits, wide.const(width)), wide.const(bias(g) + width - 30))
    place = wide.call("smin", wide.call("smax", place, wide.const(0)), wide.const(1023))
    short = g.bits == 32
    words = _product(wide, _digits(wide, place, 3 if short else 6), mantissa, 1 if short else 2)
    turns = b.or_(b.shl(words[0], wide.const(32)), words[1])
    number = b.lshr(b.add(turns, wide.const(2**61)), wide.const(62))
    turns = b.sub(turns, b.shl(number, wide.const(62)))
    high = turn.fmul(as_float(turn, b.ashr(turns, wide.const(32))), turn.const(2.0**-30))
    rest = turn.fmul(as_float(turn, b.and_(turns, wide.const(_WORD))), turn.const(2.0**-62))
    pair = sum_of(turn, high, rest)
    low = pair[1]
    for k, word in enumerate(words[2:4]):
        low = turn.fma(as_float(turn, word), turn.const(2.0 ** -(94 + 32 * k)), low)
    pair = times(turn, sum_of(turn, pair[0], low), constant(turn, _HALF_PI))
    if short:
        first = b.fptrunc(pair[0], g.type)
        pair = first, b.fptrunc(turn.fsub(pair[0], b.fpext(first, turn.type)), g.type)
        number = b.trunc(number, g.integer.type)
    negative = b.fcmp_ordered("<", x, g.const(0))
    return (
        (b.select(negative, b.fneg(pair[0]), pair[0]), b.select(negative, b.fneg(pair[1]), pair[1])),
        b.select(negative, b.neg(number), number),
    )
