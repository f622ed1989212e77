"""Functions that level off at one: tanh, sigmoid and erf, from 1 - e**x without loss near 0."""

from typing import Any

from attnc.backends.cpu.functions.exponent import power
from attnc.backends.cpu.functions.exponential import exp, reduced
from attnc.backends.cpu.lanes import Lanes

# erf(x) / x - 1 in x**2, |x| <= 1
_NEAR_32 = (0.12837916612625122, -0.3761262893676758, 0.11283618211746216, -0.02685512602329254, 0.005190733820199966,
            -0.0008030763128772378, 7.920386269688606e-05)  # fmt: skip
_NEAR_64 = (0.12837916709551256, -0.3761263890318334, 0.11283791670936535, -0.026866170641868033, 0.005223977595820098,
            -0.0008548325434429955, 0.00012055278816505683, -1.492443057444414e-05, 1.6443686926573145e-06,
            -1.6180217950318892e-07, 1.3599444096663793e-08, -7.573865873654917e-10)  # fmt: skip
# log(1 - erf(x)), with the error of erf as the weight: 1 <= x <= 4 in x; 1 <= x <= 6 in x - 2
_FAR_32 = (-0.0003124687063973397, -1.1272022724151611, -0.6379650235176086, -0.10325616598129272, 0.021906452253460884,
           -0.002963998820632696, 0.00018797078519128263)  # fmt: skip
_FAR_64 = (-5.364941264616636, -4.418160805994416, -0.9237508418239652, -0.016465118137325045, 0.0035707563483076176,
           -0.0007323993781080724, 0.00013530932761261704, -2.0706471759955964e-05, 1.9521956573572505e-06,
           2.0373190430131938e-07, -1.7318425524532205e-07, 5.769002008839587e-08, -1.3979703547493695e-08,
           2.612725018587641e-09, -2.6169060444799354e-10, -7.176159284139297e-11, 3.7632056354108176e-11,
           -5.071201723324994e-12)  # fmt: skip


def _one_less_exp(g: Lanes, x: Any) -> Any:
    """1 - e**x for -80 < x <= 0: (1 - 2**n) - 2**n (e**r - 1), rounded once."""
    rest, n = reduced(g, x)
    scale = power(g, n)
    return g.fma(g.b.fneg(scale), rest, g.fsub(g.const(1), scale))


def tanh(g: Lanes, x: Any) -> Any:
    """t / (2 - t) of t = 1 - e**(-2|x|), with the sign of x."""
    size = g.at_most(g.call("fabs", x), 10.0 if g.bits == 32 else 20.0)
    t = _one_less_exp(g, g.fmul(size, g.const(-2)))
    below = g.fsub(g.const(2), t)
    q = g.fdiv(t, below)
    # A Newton step with what the difference lost; a straight line is near enough to 1 / below between 1 and 2.
    error = g.fma(g.b.fneg(q), below, t)
    error = g.fma(g.b.fneg(q), g.fsub(g.fsub(g.const(2), below), t), error)
    q = g.fma(error, g.fma(below, g.const(-0.5), g.const(1.457)), q)
    return g.call("copysign", q, x)


def sigmoid(g: Lanes, x: Any) -> Any:
    """1 / (1 + exp(-x)), from exp(-|x|) so that neither tail overflows."""
    e, one = exp(g, g.b.fneg(g.call("fabs", x))), g.const(1)
    total = g.fadd(one, e)
    lost = g.fsub(e, g.fsub(total, one))
    q = g.fdiv(one, total)
    # A Newton step with what the sum lost: q is then 1 / (1 + e) to its last bit.
    error = g.fma(g.b.fneg(q), total, one)
    error = g.fma(g.b.fneg(q), lost, error)
    q = g.fma(q, error, q)
    return g.b.select(g.b.fcmp_ordered("<", x, g.const(0)), g.fmul(e, q), q)


def erf(g: Lanes, x: Any) -> Any:
    """x + x P(x^2) up to 1, and 1 - e**Q(|x|) beyond."""
    size, short = g.call("fabs", x), g.bits == 32
    near = g.fma(x, g.polynomial(g.fmul(x, x), _NEAR_32 if short else _NEAR_64), x)
    far = g.at_most(size, 4.0) if short else g.fsub(g.at_most(size, 6.0), g.const(2))
    far = _one_less_exp(g, g.polynomial(far, _FAR_32 if short else _FAR_64))
    return g.b.select(g.b.fcmp_ordered("<", size, g.const(1)), near, g.call("copysign", far, x))
