"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba.

What differs is the order of the work, never the result (float32 to 1e-4, float64 to 1e-10):

* The path pass runs in parallel over sequences.
* The competition of a small vocabulary runs in parallel over *bins* of source nodes: the edges
  that leave a source are composed once, then serve all positions at that source.
* The competition of a large vocabulary runs in parallel over bins of *targets*: the parts of an
  edge stay apart, and the pre-activations are computed twice rather than kept.
* Matrix products are made of one small tile whose sums stay in registers (`_add_product`), and
  work on edges where they lie, (K, d, d); activation, derivative and energy are found in one
  sweep while a block of pre-activations is in cache.
* The number of bins is fixed and every bin adds up in a fixed order: the same bits come out
  whatever the number of threads.

All kernels stand in this one file because Numba's cache of compiled code looks at the file of
the function that is called, not at those of the functions it calls in turn.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic as _intrinsic
from numba.extending import overload
from numpy.polynomial import chebyshev
from scipy.special import ndtr

from minibrillm.counting import PriorRows, Withheld, recent_tokens
from minibrillm.functional import gelu_derivative, position_encoding, signal_bound
from minibrillm.memory import Competition, Path, Schedule, State, start_state
from minibrillm.optim import SQUARES_BLOCK, SQUARES_LANES
from minibrillm.variance import Rounding

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig
    from minibrillm.counting import KneserNey
    from minibrillm.graph import TokenGraph

Array = np.ndarray
Parameters = Mapping[str, Array]
intrinsic: Any = _intrinsic  # compiled code calls it without the first argument

# Sums may be re-ordered and fused so that loops vectorise; NaN and infinity keep their meaning.
_FLAGS = {"contract", "reassoc", "nsz"}
_BINS = 8  # fixed: results must not depend on the number of threads


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``numba.njit`` with a disk cache where the machine has a place for one.

    What a kernel calls becomes part of it: else a process that compiles takes the callee's own
    code, a process that loads from the cache takes the copy that was optimised with the caller,
    and the two differ in their last bits.
    """
    called = not options.get("parallel", False)  # by other kernels
    options = {"error_model": "numpy", "forceinline": called, **options}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable place for a cache: compile anew in each process
            return numba.njit(**options)(function)

    return decorate


def cache_folder() -> str:
    """Where compiled kernels are kept between processes."""
    stats: Any = getattr(_update, "stats", None)
    return str(getattr(stats, "cache_path", None) or "none: compiled in each process")


# ------------------------------------------------------------------------- one caller at a time

_LOCK = threading.RLock()  # two Python threads in a parallel kernel abort under workqueue


def _serial(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return function(*args, **kwargs)

    return wrapper


# ----------------------------------------------------------------------- activation, by precision

_F = np.float32
_TINY = _F(1e-30)
# Of energies in float32: `_Emitter.gelu` has no more to say of what lies below, it may give 0 where
# `_cdf_pdf` does not.
_LEAST_ENERGY = _F(1e-6)
_HALF, _ONE = _F(0.5), _F(1.0)
# 2^f for |f| ≤ ½, interpolated at Chebyshev's points; relative error below 1.1e-7.
_B0, _B1, _B2 = _F(1.0000001192092896), _F(0.6931471824645996), _F(0.2402210682630539)
_B3, _B4, _B5 = _F(0.05550327152013779), _F(0.009676037356257439), _F(0.0013400432653725147)
_LEAST_POWER = _F(-126.0)
_LOG2E, _HALF_LOG2E = _F(math.log2(math.e)), _F(0.5 * math.log2(math.e))
# Abramowitz & Stegun 7.1.26 for erf(x), |error| < 1.5e-7; x = |h| / √2.
_T = _F(0.3275911 / math.sqrt(2))
_A1, _A2, _A3 = _F(0.254829592 / 2), _F(-0.284496736 / 2), _F(1.421413741 / 2)
_A4, _A5 = _F(-1.453152027 / 2), _F(1.061405429 / 2)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_DENSITY32 = _F(_DENSITY)
_SQRT_HALF = math.sqrt(0.5)
# (Φ(x) - ½) / x as a polynomial in u = 2 x² / reach² - 1, interpolated at Chebyshev's points;
# beyond its reach Φ is 0 or 1. Error of gelu below 1e-7 |h|.
_REACH, _DEGREE = 5.6, 16
_NODES = chebyshev.chebpts1(_DEGREE + 1)
_X = _REACH * np.sqrt((_NODES + 1) / 2)
_ODD_PART = chebyshev.cheb2poly(chebyshev.chebfit(_NODES, (ndtr(_X) - 0.5) / _X, _DEGREE))


@_jit(fastmath=_FLAGS, inline="always")
def _power_of_two(x: Any) -> Any:
    """2^x in float32 without a branch, so that loops over it vectorise; 2^-126 at least."""
    x = max(x, _LEAST_POWER)
    whole = np.floor(x + _HALF)
    f = x - whole
    p = _B0 + f * (_B1 + f * (_B2 + f * (_B3 + f * (_B4 + f * _B5))))
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


def _exp(x: Any) -> Any:
    """e^x for x ≤ 0."""
    return math.exp(x)  # without the compiler; compiled, the overload below takes its place


def _cdf_pdf(h: Any) -> Any:
    """Φ(h) and φ(h); in float32 by a branch-free rational approximation."""
    return 0.5 * math.erfc(-h * _SQRT_HALF), math.exp(-0.5 * h * h) * _DENSITY


@overload(_exp, inline="always")
def _exp_overload(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            return _power_of_two(x * _LOG2E)

        return single

    def double(x: Any) -> Any:
        return math.exp(x)

    return double


@overload(_cdf_pdf, inline="always")
def _cdf_pdf_overload(h: Any) -> Any:
    if h == types.float32:

        def single(h: Any) -> Any:
            x = abs(h)
            e = _power_of_two(-_HALF_LOG2E * x * x)
            t = _ONE / (_ONE + _T * x)
            tail = e * t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5))))
            cdf = tail if h < np.float32(0) else _ONE - tail
            return cdf, e * _DENSITY32

        return single

    def double(h: Any) -> Any:
        return 0.5 * math.erfc(-h * _SQRT_HALF), math.exp(-0.5 * h * h) * _DENSITY

    return double


@_jit(fastmath=_FLAGS)
def gelu_sweep(h: Array, gelu: Array, product: Array) -> None:
    """gelu(h) and gelu(h) gelu'(h) of flat arrays, as the kernels compute them."""
    for j in range(h.size):
        cdf, pdf = _cdf_pdf(h[j])
        y = h[j] * cdf
        gelu[j] = y
        product[j] = y * (cdf + h[j] * pdf)


# ------------------------------------------------------------------------------ matrix products
#
# NumPy's and Numba's way to a matrix product is BLAS. Here the matrices are many and small, d × d,
# and what is done to the product at once (activation, energy) matters as much as the product. So
# one tile is written in LLVM's own vectors, which fit whatever registers the machine has.

_FEATURES = (getattr(numba.config, "CPU_FEATURES", None) or get_host_cpu_features()).split(",")
_VECTOR_BYTES = 64 if "+avx512f" in _FEATURES else 32 if "+avx" in _FEATURES else 16
# Rows of a tile two vectors wide: as many sums as registers hold (AVX has but 16 of them).
_ROWS = 6 if _VECTOR_BYTES == 32 else 8
_CHAINS = 4  # sums side by side for a single row, which would else wait for each addition


def _lanes(array: Any) -> int:
    """How many elements of this precision fill one vector."""
    return _VECTOR_BYTES // array.itemsize


@overload(_lanes)
def _lanes_overload(array: Any) -> Any:
    lanes = _VECTOR_BYTES * 8 // array.dtype.bitwidth

    def constant(array: Any) -> int:
        return lanes

    return constant


class _Emitter:
    """LLVM instructions on vectors of one precision, addresses counted in elements."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.bytes = dtype.bitwidth // 8
        self.lanes = _VECTOR_BYTES // self.bytes
        self.scalar = context.get_value_type(dtype)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.suffix = f"v{self.lanes}f{dtype.bitwidth}"

    def count(self, n: int) -> Any:
        """A constant."""
        return self.context.get_constant(types.intp, n)

    def at(self, pointer: Any, *offsets: Any) -> Any:
        """A pointer moved on by so many elements."""
        for offset in offsets:
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def data(self, array_type: Any, array: Any) -> Any:
        """Pointer to an array's first element."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def place(self, array_type: Any, array: Any, place: Any) -> tuple[Any, Any, Any]:
        """A place (see `_add_product`) as pointer and distances."""
        first, one, two = cgutils.unpack_tuple(self.builder, place)
        return self.at(self.data(array_type, array), first), one, two

    def _cast(self, pointer: Any) -> Any:
        return self.builder.bitcast(pointer, self.vector.as_pointer())

    def load(self, pointer: Any) -> Any:
        """A whole vector, wherever it lies."""
        return self.builder.load(self._cast(pointer), align=self.bytes)

    def store(self, value: Any, pointer: Any) -> None:
        """The same, the other way."""
        self.builder.store(value, self._cast(pointer), align=self.bytes)

    def splat(self, x: Any) -> Any:
        """A vector of one number, over and over."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, x, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, mask)

    def sum_variable(self) -> Any:
        """A variable that starts at zero; LLVM keeps it in a register."""
        variable = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, [0.0] * self.lanes), variable)
        return variable

    def multiply_add(self, x: Any, y: Any, total: Any) -> None:
        """total += x y"""
        self.builder.store(self.call("fmuladd", x, y, self.builder.load(total)), total)

    @contextmanager
    def each(self, n: Any, step: int) -> Iterator[Any]:
        """A loop over 0, step, 2 step … below n."""
        with cgutils.for_range_slice(
            self.builder, self.count(0), n, self.count(step), inc=True
        ) as (index, _):
            yield index

    def call(self, name: str, *arguments: Any) -> Any:
        """One of LLVM's own functions, of vectors."""
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.{name}.{self.suffix}"
        )
        return self.builder.call(function, arguments)

    def number(self, x: float) -> Any:
        """A vector of one constant."""
        return ir.Constant(self.vector, [float(x)] * self.lanes)

    def square_root(self, x: Any) -> Any:
        return self.call("sqrt", x)

    def gelu(self, h: Any) -> Any:
        """h Φ(h) = h/2 + |h| (Φ(|h|) - ½), without a division (`_ODD_PART`)."""
        size = self.call("fabs", h)
        x = self.call("minnum", size, self.number(_REACH))
        square = self.builder.fmul(x, x)
        u = self.call("fma", square, self.number(2 / _REACH**2), self.number(-1))
        value = self.number(_ODD_PART[-1])
        for coefficient in _ODD_PART[-2::-1]:
            value = self.call("fma", value, u, self.number(coefficient))
        half = self.builder.fmul(h, self.number(0.5))
        return self.call("fma", size, self.builder.fmul(x, value), half)

    def lane_sums(self, vectors: list[Any]) -> Any:
        """One vector whose lane i is the sum of all lanes of vector i, of as many as it has lanes.

        Round by round two vectors become one: the two halves of every part are added, and parts of
        both vectors stand side by side, half as long.
        """
        length = self.lanes
        while length > 1:
            length //= 2
            first = [i for i in range(2 * self.lanes) if i % (2 * length) < length]
            halves = [first, [i + length for i in first]]
            masks = [
                ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), half) for half in halves
            ]
            vectors = [
                self.builder.fadd(*(self.builder.shuffle_vector(x, y, mask) for mask in masks))
                for x, y in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    def across(self, vector: Any) -> Any:
        """The sum of a vector's elements."""
        name = f"llvm.vector.reduce.fadd.{self.suffix}"
        kind = ir.FunctionType(self.scalar, [self.scalar, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        zero = ir.Constant(self.scalar, 0.0)
        return self.builder.call(function, [zero, vector], fastmath=("reassoc",))


def _make_tile(rows: int, vectors: int, chains: int) -> Callable[..., None]:
    """A product of ``rows`` rows and ``vectors`` vectors of columns, all sums in registers.

    The arguments are those of `_add_product`.
    """

    def run(c: Any, c_place: Any, a: Any, a_place: Any, b: Any, b_place: Any, depth: Any) -> None:
        c_at, c_row, c_vec = c_place
        a_at, a_row, a_step = a_place
        b_at, b_row, b_vec = b_place
        lanes, size = _lanes(c), c.itemsize
        for r in range(rows):
            left = a[a_at + r * a_row :: a_step][:depth]
            for v in range(vectors):
                start = b[b_at + v * b_vec :]
                right = np.lib.stride_tricks.as_strided(start, (depth, lanes), (b_row * size, size))
                at = c_at + r * c_row + v * c_vec
                c[at : at + lanes] += left @ right

    @intrinsic
    def compiled(
        typing: Any, c: Any, c_place: Any, a: Any, a_place: Any, b: Any, b_place: Any, depth: Any
    ) -> Any:
        place = types.UniTuple(types.intp, 3)
        signature = types.void(c, place, a, place, b, place, types.intp)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature.args[0].dtype)
            count, depth = emit.count, args[6]
            (out, c_row, c_vec), (left, a_row, a_step), (right, b_row, b_vec) = (
                emit.place(signature.args[i], args[i], args[i + 1]) for i in (0, 2, 4)
            )
            row_of = [builder.mul(a_row, count(r)) for r in range(rows)]
            vec_of = [builder.mul(b_vec, count(v)) for v in range(vectors)]
            tile = [(r, v) for r in range(rows) for v in range(vectors)]
            total = [{rv: emit.sum_variable() for rv in tile} for _ in range(chains)]

            def step(k: Any, sums: dict[tuple[int, int], Any]) -> None:
                line = emit.at(right, builder.mul(b_row, k))
                columns = [emit.load(emit.at(line, at)) for at in vec_of]
                column = emit.at(left, builder.mul(a_step, k))
                for r in range(rows):
                    x = emit.splat(builder.load(emit.at(column, row_of[r])))
                    for v in range(vectors):
                        emit.multiply_add(x, columns[v], sums[r, v])

            whole = builder.sdiv(depth, count(chains))
            with cgutils.for_range(builder, whole) as loop:
                first = builder.mul(loop.index, count(chains))
                for chain in range(chains):
                    step(builder.add(first, count(chain)), total[chain])
            if chains > 1:
                start = builder.mul(whole, count(chains))
                with cgutils.for_range(builder, builder.sub(depth, start)) as loop:
                    step(builder.add(start, loop.index), total[0])
            for r, v in tile:
                sums = [builder.load(total[chain][r, v]) for chain in range(chains)]
                while len(sums) > 1:
                    sums = [*map(builder.fadd, sums[::2], sums[1::2])]
                at = emit.at(out, builder.mul(c_row, count(r)), builder.mul(c_vec, count(v)))
                emit.store(builder.fadd(emit.load(at), sums[0]), at)
            return context.get_dummy_value()

        return signature, generate

    @overload(run)
    def run_overload(
        c: Any, c_place: Any, a: Any, a_place: Any, b: Any, b_place: Any, depth: Any
    ) -> Any:
        def call(
            c: Any, c_place: Any, a: Any, a_place: Any, b: Any, b_place: Any, depth: Any
        ) -> None:
            compiled(c, c_place, a, a_place, b, b_place, depth)

        return call

    return run


_tile = _make_tile(_ROWS, 2, 1)
_narrow_tile = _make_tile(_ROWS, 1, 1)
_row = _make_tile(1, 2, _CHAINS)
_narrow_row = _make_tile(1, 1, _CHAINS)


@_jit()
def _add_product(
    c: Array,
    c_place: tuple[int, int, int],
    a: Array,
    a_place: tuple[int, int, int],
    b: Array,
    b_place: tuple[int, int, int],
    rows: int,
    vectors: int,
    depth: int,
) -> None:
    """c += a b: ``rows`` × ``vectors`` whole vectors, summed over ``depth``.

    The arrays are flat. A place is where the first element lies and how far apart, in elements,
    c: rows and vectors, a: rows and columns, b: rows and vectors are.
    """
    (c_at, c_row, c_vec), (a_at, a_row, a_step), (b_at, b_row, b_vec) = c_place, a_place, b_place
    whole = rows - rows % _ROWS
    for v in range(0, vectors, 2):
        b_here = (b_at + v * b_vec, b_row, b_vec)
        two = v + 1 < vectors
        for r in range(0, whole, _ROWS):
            a_here = (a_at + r * a_row, a_row, a_step)
            c_here = (c_at + v * c_vec + r * c_row, c_row, c_vec)
            if two:
                _tile(c, c_here, a, a_here, b, b_here, depth)
            else:
                _narrow_tile(c, c_here, a, a_here, b, b_here, depth)
        for r in range(whole, rows):
            a_here = (a_at + r * a_row, a_row, a_step)
            c_here = (c_at + v * c_vec + r * c_row, c_row, c_vec)
            if two:
                _row(c, c_here, a, a_here, b, b_here, depth)
            else:
                _narrow_row(c, c_here, a, a_here, b, b_here, depth)


def _dot(x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
    """Σ x y over ``n`` elements of each flat array, a whole number of vectors."""
    return (x[x_at : x_at + n] * y[y_at : y_at + n]).sum()


@intrinsic
def _dot_compiled(typing: Any, x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(context, builder, signature.args[0].dtype)
        left, right = (emit.at(emit.data(signature.args[i], args[i]), args[i + 1]) for i in (0, 2))
        total = emit.sum_variable()
        with emit.each(args[4], emit.lanes) as at:
            emit.multiply_add(emit.load(emit.at(left, at)), emit.load(emit.at(right, at)), total)
        return emit.across(builder.load(total))

    return x.dtype(x, types.intp, y, types.intp, types.intp), generate


@overload(_dot)
def _dot_overload(x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
    def call(x: Any, x_at: Any, y: Any, y_at: Any, n: Any) -> Any:
        return _dot_compiled(x, x_at, y, y_at, n)

    return call


# K segments of d elements, side by side in h: one short loop each, which a compiler that does not
# know d makes slow. So these three, too, are written in vectors.


def _make_segments(
    numpy: Callable[[Array, Array], None],
    body: Callable[[_Emitter, Any, Any, Any, Any, Any], None],
) -> Callable[..., None]:
    """An operation on h (K, d) and x, which is flat and starts at ``x_at``.

    ``numpy`` says what is done; ``body`` emits it for one vector of every segment: it is given
    where in the segment that vector lies, pointers to h and x, K, and d.
    """

    def run(h: Any, h_at: Any, x: Any, x_at: Any, k: Any, d: Any) -> None:
        numpy(h[h_at : h_at + k * d].reshape(k, d), x[x_at:])

    @intrinsic
    def compiled(typing: Any, h: Any, h_at: Any, x: Any, x_at: Any, k: Any, d: Any) -> Any:
        n = types.intp

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature.args[0].dtype)
            segments, x = (
                emit.at(emit.data(signature.args[i], args[i]), args[i + 1]) for i in (0, 2)
            )
            with emit.each(args[5], emit.lanes) as part:
                body(emit, part, segments, x, args[4], args[5])
            return context.get_dummy_value()

        return types.void(h, n, x, n, n, n), generate

    @overload(run)
    def run_overload(h: Any, h_at: Any, x: Any, x_at: Any, k: Any, d: Any) -> Any:
        def call(h: Any, h_at: Any, x: Any, x_at: Any, k: Any, d: Any) -> None:
            compiled(h, h_at, x, x_at, k, d)

        return call

    return run


def _emit_add(emit: _Emitter, part: Any, h: Any, x: Any, k: Any, d: Any) -> None:
    common = emit.load(emit.at(x, part))
    with emit.each(k, 1) as segment:
        at = emit.at(h, part, emit.builder.mul(segment, d))
        emit.store(emit.builder.fadd(emit.load(at), common), at)


def _emit_sum(emit: _Emitter, part: Any, h: Any, x: Any, k: Any, d: Any) -> None:
    target, total = emit.at(x, part), emit.sum_variable()
    with emit.each(k, 1) as segment:
        value = emit.load(emit.at(h, part, emit.builder.mul(segment, d)))
        emit.builder.store(emit.builder.fadd(emit.builder.load(total), value), total)
    emit.store(emit.builder.fadd(emit.load(target), emit.builder.load(total)), target)


def _emit_scale(emit: _Emitter, part: Any, h: Any, x: Any, k: Any, d: Any) -> None:
    with emit.each(k, 1) as segment:
        at = emit.at(h, part, emit.builder.mul(segment, d))
        factor = emit.splat(emit.builder.load(emit.at(x, segment)))
        emit.store(emit.builder.fmul(emit.load(at), factor), at)


def _numpy_add(h: Array, x: Array) -> None:
    h += x[: h.shape[1]]


def _numpy_sum(h: Array, x: Array) -> None:
    x[: h.shape[1]] += h.sum(axis=0)


def _numpy_scale(h: Array, x: Array) -> None:
    h *= x[: h.shape[0], None]


_add_to_segments = _make_segments(_numpy_add, _emit_add)  # h_k += x (d,)
_add_up_segments = _make_segments(_numpy_sum, _emit_sum)  # x (d,) += Σ h_k
_scale_segments = _make_segments(_numpy_scale, _emit_scale)  # h_k *= x_k (K,)


def _norms(h: Any, k: Any, d: Any, e: Any) -> None:
    """e_k = ‖h_k‖, for flat arrays h (K d) and e (K,)."""
    e[:k] = np.sqrt((h[: k * d].reshape(k, d) ** 2).sum(axis=1))


def _make_norms(of: Callable[[_Emitter, Any], Any]) -> Any:
    """Norms of f(h_k), of as many segments at once as a vector has lanes; K a multiple of that."""

    @intrinsic
    def compiled(typing: Any, h: Any, k: Any, d: Any, e: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature.args[0].dtype)
            segments, out = (emit.data(signature.args[i], args[i]) for i in (0, 3))
            _, k, d, _ = args
            with emit.each(k, emit.lanes) as first:
                totals = [emit.sum_variable() for _ in range(emit.lanes)]
                place = emit.at(segments, builder.mul(first, d))
                with emit.each(d, emit.lanes) as part:
                    for i, total in enumerate(totals):
                        x = emit.load(emit.at(place, builder.mul(d, emit.count(i)), part))
                        y = of(emit, x)
                        emit.multiply_add(y, y, total)
                sums = emit.lane_sums([builder.load(total) for total in totals])
                emit.store(emit.square_root(sums), emit.at(out, first))
            return context.get_dummy_value()

        return types.void(h, types.intp, types.intp, e), generate

    return compiled


_norms_compiled = _make_norms(lambda emit, x: x)
_gelu_norms_compiled = _make_norms(lambda emit, x: emit.gelu(x))


@overload(_norms)
def _norms_overload(h: Any, k: Any, d: Any, e: Any) -> Any:
    lanes = _VECTOR_BYTES * 8 // h.dtype.bitwidth

    def call(h: Any, k: Any, d: Any, e: Any) -> None:
        whole = k - k % lanes
        _norms_compiled(h, whole, d, e)
        for j in range(whole, k):
            e[j] = math.sqrt(_dot_compiled(h, j * d, h, j * d, d))

    return call


def _gelu_norms(h: Any, k: Any, d: Any, e: Any) -> None:
    """e_k = ‖gelu(h_k)‖, for flat arrays h (K d) and e (K,); h is lost."""
    for j in range(k * d):
        h[j] *= _cdf_pdf(h[j])[0]
    _norms(h, k, d, e)


@overload(_gelu_norms)
def _gelu_norms_overload(h: Any, k: Any, d: Any, e: Any) -> Any:
    single, lanes = h.dtype == types.float32, _VECTOR_BYTES // 4

    def call(h: Any, k: Any, d: Any, e: Any) -> None:
        whole = k - k % lanes if single else 0
        if single:
            _gelu_norms_compiled(h, whole, d, e)
        rest = h[whole * d : k * d]
        for j in range(rest.size):
            cdf, _ = _cdf_pdf(rest[j])
            rest[j] *= cdf
        _norms(rest, k - whole, d, e[whole:])

    return call


# What the kernels multiply: signals (rows of d) with edges (d, d), K of them side by side.


@_jit()
def _answers(
    h: Array, stride: int, a: Array, a_at: int, edges: Array, e_at: int, rows: int, k: int, d: int
) -> None:
    """h (rows, K d) += a (rows, d) times each of K edges (K, d, d); rows of h are stride apart."""
    n = _lanes(h)
    for part in range(0, d, n):
        _add_product(
            h, (part, stride, d), a, (a_at, d, 1), edges, (e_at + part, d, d * d), rows, k, d
        )


@_jit()
def _edge_gradients(
    d_edges: Array, e_at: int, a: Array, a_at: int, h: Array, h_at: int, stride: int,
    rows: int, k: int, d: int,
) -> None:  # fmt: skip
    """d_edges (K, d, d) += aᵀ (d, rows) times h (rows, K d)."""
    n = _lanes(h)
    for part in range(0, d, n):
        _add_product(
            d_edges,
            (e_at + part, d, d * d),
            a,
            (a_at, 1, d),
            h,
            (h_at + part, stride, d),
            d,
            k,
            rows,
        )


_BLOCK = 4  # edges whose transposes stay in a core's first cache while all rows pass over them


@_jit()
def _signal_gradients(
    da: Array, da_at: int, h: Array, stride: int, transposed: Array, rows: int, k: int, d: int
) -> None:
    """da (rows, d) += h (rows, K d) times K transposed edges, one above the other (K d, d)."""
    n = _lanes(h)
    for low in range(0, k, _BLOCK):
        depth = (min(low + _BLOCK, k) - low) * d
        t_place = (low * d * d, d, n)
        _add_product(
            da, (da_at, d, n), h, (low * d, stride, 1), transposed, t_place, rows, d // n, depth
        )


# Loops below run over slices with a bare index: Numba lets negative indices wrap around, and an
# index that is a sum might be one, which would keep LLVM from vectorising.


@_jit()
def _transpose(edges: Array, k: int, d: int, transposed: Array) -> None:
    """K edges (d, d), each transposed."""
    for e in range(k):
        source = edges[e * d * d : (e + 1) * d * d].reshape(d, d)
        target = transposed[e * d * d : (e + 1) * d * d].reshape(d, d)
        for o in range(d):
            for i in range(d):
                target[o, i] = source[i, o]


@_jit(fastmath=_FLAGS)
def _add_back(dh: Array, weight: Array, index: int, da: Array) -> None:
    """da += dh Wᵀ, for one signal."""
    d = da.size
    for i in range(d):
        da[i] += _dot(dh, 0, weight, (index * d + i) * d, d)


@_jit()
def _add_to(total: Array, at: int, x: Array, x_at: int, n: int) -> None:
    """total += x, n elements of each flat array."""
    left, right = total[at : at + n], x[x_at : x_at + n]
    for j in range(n):
        left[j] += right[j]


@_jit()
def _copy_to(target: Array, at: int, x: Array, x_at: int, n: int) -> None:
    """target = x, n elements of each flat array."""
    left, right = target[at : at + n], x[x_at : x_at + n]
    for j in range(n):
        left[j] = right[j]


# ------------------------------------------------------------------------------ arrays for kernels


def _width(config: ModelConfig, dtype: Any) -> int:
    """d, rounded up to whole vectors: what is added is zero and stays zero."""
    lanes = _VECTOR_BYTES // np.dtype(dtype).itemsize
    return -(-config.d_node // lanes) * lanes


def _pad(array: Array, width: int, axes: int = 1) -> Array:
    """The last ``axes`` axes filled up with zeros to ``width``; contiguous."""
    missing = width - array.shape[-1]
    if missing:
        array = np.pad(array, [(0, 0)] * (array.ndim - axes) + [(0, missing)] * axes)
    return np.ascontiguousarray(array)


def _trim(array: Array, d: int) -> Array:
    """The way back of `_pad`, for one axis."""
    return array if array.shape[-1] == d else np.ascontiguousarray(array[..., :d])


class _Edges(NamedTuple):
    """The arrays of either kind of edge under common names, flat.

    ``shared``: ``main`` holds the slots, the others are empty. ``three_part``: ``main`` is the
    axon; a private edge adds ``private`` (the synapse), every target its ``dendrite``.
    """

    main_weight: Array
    main_bias: Array
    dendrite_weight: Array
    dendrite_bias: Array
    private_weight: Array
    private_bias: Array


_KINDS = ("weight", "bias")


def _edge_names(config: ModelConfig) -> list[str]:
    parts = ("edge",) if config.edges == "shared" else ("axon", "dendrite", "synapse")
    return [f"{part}_{kind}" for part in parts for kind in _KINDS]


def _edges(arrays: Mapping[str, Array], config: ModelConfig, width: int) -> _Edges:
    flat = [
        _pad(arrays[name], width, axes=2 if name.endswith("weight") else 1).reshape(-1)
        for name in _edge_names(config)
    ]
    flat += [flat[0][:0]] * (6 - len(flat))
    return _Edges(*flat)


class _Prior(NamedTuple):
    """π: by source the logs of seen bigrams, and back-off and unigram for the rest."""

    indptr: Array
    targets: Array
    log_probability: Array
    log_backoff: Array
    log_unigram: Array
    log_unseen: Array  # (V,) what the class without private edges weighs


def _prior(graph: TokenGraph, config: ModelConfig) -> _Prior:
    unseen = graph.log_unseen_weight if config.edges == "shared" else np.zeros(graph.n_nodes)
    return _near(graph)._replace(log_unseen=unseen)


def _near(graph: TokenGraph) -> _Prior:
    """π of the last token alone, without a class of unseen targets."""
    n, prior = graph.n_nodes, graph.prior
    unseen = np.zeros(n)
    if prior is None:
        none = np.zeros(0, np.int64)
        return _Prior(
            np.zeros(n + 1, np.int64), none, np.zeros(0), np.zeros(n), np.zeros(n), unseen
        )
    return _Prior(
        prior.indptr,
        prior.targets,
        prior.log_probability,
        prior.log_backoff,
        prior.log_unigram,
        unseen,
    )


class _Steps(NamedTuple):
    """The edges of the path as rows of `_Edges`, -1 for no such part, and how the memory moves."""

    main: Array  # (B, n)
    dendrite: Array
    private: Array
    keep: Array  # (n, d)
    gain: Array  # (n,)
    z: Array  # (n + 1, d), 1 where d is padded: it divides
    tightness: float  # 1 / c², 0 without a bound


def _steps(
    parameters: Mapping[str, Array],
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    schedule: Schedule,
    width: int,
) -> _Steps:
    u, v = tokens[:, :-1], tokens[:, 1:]
    edge = graph.edge(u, v)
    if config.edges == "shared":
        none = np.full_like(edge, -1)
        parts = edge + 1, none, none
    else:
        parts = np.ascontiguousarray(u), np.ascontiguousarray(v), edge
    z = _pad(schedule.normaliser, width)
    z[:, config.d_node :] = 1
    bound = signal_bound(parameters)
    tightness = schedule.gain.dtype.type(bound and bound**-2.0)
    return _Steps(*parts, _pad(schedule.keep, width), schedule.gain, z, tightness)


# --------------------------------------------------------------------------------------- path pass


@_jit(fastmath=_FLAGS)
def _add_edge(weight: Array, bias: Array, index: int, a: Array, h: Array) -> None:
    """h += a W + b, for one signal."""
    d, n = h.size, _lanes(h)
    _add_to(h, 0, bias, index * d, d)
    _add_product(h, (0, 0, n), a, (0, 0, 1), weight, (index * d * d, d, n), 1, d // n, d)


class _Forward(NamedTuple):
    """What the path pass reads and writes."""

    encoding: Array
    a: Array
    acc: Array
    incoming: Array
    pre_activation: Array
    signal: Array


@_jit(fastmath=_FLAGS)
def _stream_forward(edges: _Edges, steps: _Steps, f: _Forward, b: int) -> None:
    """One sequence, edge by edge (eq. 1-7)."""
    _, n, d = f.incoming.shape
    a, acc = f.a[b], f.acc[b]
    one = a.dtype.type(1)  # of the signals' precision: a plain 1 would make all of it float64
    for i in range(n):
        h, s = f.pre_activation[b, i], f.signal[b, i]
        keep, gain, z = steps.keep[i], steps.gain[i], steps.z[i + 1]
        _copy_to(f.incoming[b, i], 0, a, 0, d)
        _copy_to(h, 0, f.encoding[i], 0, d)
        _add_edge(edges.main_weight, edges.main_bias, steps.main[b, i], a, h)
        v, e = steps.dendrite[b, i], steps.private[b, i]
        if v >= 0:
            _add_edge(edges.dendrite_weight, edges.dendrite_bias, v, a, h)
        if e >= 0:
            _add_edge(edges.private_weight, edges.private_bias, e, a, h)
        square = h.dtype.type(0)
        for o in range(d):
            cdf, _ = _cdf_pdf(h[o])
            s[o] = h[o] * cdf
            square += s[o] * s[o]
        q = one / np.sqrt(one + square * steps.tightness)
        for o in range(d):
            s[o] *= q
            acc[o] = keep[o] * acc[o] + gain * s[o]
            a[o] = acc[o] / z[o]


@_jit(parallel=True)
def _run_path(edges: _Edges, steps: _Steps, f: _Forward) -> None:
    for b in prange(len(f.incoming)):
        _stream_forward(edges, steps, f, np.int64(b))


@_serial
def path_forward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    state: State | None = None,
) -> Path:
    """As `minibrillm.reference.path_forward`."""
    n_streams, n, d = tokens.shape[0], tokens.shape[1] - 1, config.d_node
    fresh, start = start_state(SimpleNamespace(parameters=parameters, config=config), tokens[:, 0])
    state = fresh if state is None else state
    dtype = state.incoming.dtype
    width = _width(config, dtype)
    schedule = config.memory_kind.schedule(parameters, n, state)
    encoding = position_encoding(
        config.positions, state.position + config.first_position, n, d
    ).astype(dtype)
    incoming = np.empty((n_streams, n, width), dtype)
    pre_activation, signal = np.empty_like(incoming), np.empty_like(incoming)
    a, acc = _pad(state.incoming, width).copy(), _pad(state.accumulator, width).copy()
    edges = _edges(parameters, config, width)
    steps = _steps(parameters, graph, config, tokens, schedule, width)
    work = _Forward(_pad(encoding, width), a, acc, incoming, pre_activation, signal)
    if n_streams == 1:  # as in generation: nothing to run in parallel, nor to compile for that
        _stream_forward(edges, steps, work, 0)
    else:
        _run_path(edges, steps, work)
    final = State(
        tokens[:, -1],
        _trim(a, d),
        _trim(acc, d),
        schedule.normaliser[n],
        schedule.log_scale,
        state.position + n,
        recent_tokens(config.prior_order, state.recent, tokens[:, 1:]),
    )
    incoming, signal, pre_activation = (_trim(x, d) for x in (incoming, signal, pre_activation))
    return Path(incoming, signal, pre_activation, start, schedule, final)


class _Backward(NamedTuple):
    """What the way back along the path reads and writes."""

    incoming: Array
    signal: Array
    pre_activation: Array
    d_incoming: Array
    dh: Array
    d_acc: Array
    d_keep: Array
    d_gain: Array
    d_log_bound: Array


@_jit(fastmath=_FLAGS)
def _stream_backward(edges: _Edges, steps: _Steps, f: _Backward, b: int) -> None:
    """One sequence, from its last edge to its first (eq. 14-16)."""
    _, n, d = f.incoming.shape
    d_acc, d_keep = f.d_acc[b], f.d_keep[b]
    one = d_acc.dtype.type(1)
    for i in range(n - 1, -1, -1):
        a, h, da, dh = f.incoming[b, i], f.pre_activation[b, i], f.d_incoming[b, i], f.dh[b, i]
        keep, gain, z = steps.keep[i], steps.gain[i], steps.z[i]
        s = f.signal[b, i]
        across = f.d_gain[b, i] = _dot(d_acc, 0, s, 0, d)
        square = h.dtype.type(0)
        for o in range(d):
            d_keep[o] += d_acc[o] * a[o] * z[o]
            cdf, pdf = _cdf_pdf(h[o])
            square += h[o] * cdf * h[o] * cdf
            dh[o] = cdf + h[o] * pdf
        q = one / np.sqrt(one + square * steps.tightness)
        across *= steps.tightness
        f.d_log_bound[b, i] = gain * across * q * q * square
        for o in range(d):
            dh[o] *= gain * q * (d_acc[o] - across * s[o])
        _add_back(dh, edges.main_weight, steps.main[b, i], da)
        v, e = steps.dendrite[b, i], steps.private[b, i]
        if v >= 0:
            _add_back(dh, edges.dendrite_weight, v, da)
        if e >= 0:
            _add_back(dh, edges.private_weight, e, da)
        if i > 0:
            for o in range(d):
                d_acc[o] = keep[o] * d_acc[o] + da[o] / z[o]


@_jit(parallel=True)
def _run_path_back(edges: _Edges, steps: _Steps, f: _Backward) -> None:
    for b in prange(len(f.incoming)):
        _stream_backward(edges, steps, f, np.int64(b))


_GATHERED = 64  # positions of one edge part that are brought side by side


class _Outer(NamedTuple):
    """Rows a_r and dh_r, grouped by the edge part whose gradient they make; the groups in bins."""

    label: Array
    start: Array
    order: Array
    bin_start: Array
    dealt: Array
    a: Array
    dh: Array
    d_weight: Array
    d_bias: Array


@_jit(fastmath=_FLAGS)
def _add_parts(x: _Outer, memory: Array, b: int) -> None:
    """Add a_rᵀ dh_r of every row r of one bin to the gradient of its edge part."""
    d = x.a.shape[1]
    right = _GATHERED * d
    for k in x.dealt[x.bin_start[b] : x.bin_start[b + 1]]:
        part = x.label[k]
        for first in range(x.start[k], x.start[k + 1], _GATHERED):
            rows = min(x.start[k + 1] - first, _GATHERED)
            for r in range(rows):
                row = x.order[first + r]
                _copy_to(memory, r * d, x.a[row], 0, d)
                _copy_to(memory, right + r * d, x.dh[row], 0, d)
                _add_to(x.d_bias, part * d, memory, right + r * d, d)
            _edge_gradients(x.d_weight, part * d * d, memory, 0, memory, right, d, rows, 1, d)


@_jit(parallel=True)
def _add_outer(x: _Outer, scratch: Array) -> None:
    for b in prange(_BINS):
        _add_parts(x, scratch[numba.get_thread_id()], np.int64(b))


@_serial
def path_backward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    competition: Competition,
) -> dict[str, Array]:
    """As `minibrillm.reference.path_backward`."""
    gradients = competition.gradients
    n_streams, n, d = path.incoming.shape
    dtype = path.incoming.dtype
    width = _width(config, dtype)
    incoming = _pad(path.incoming, width)
    d_incoming = _pad(competition.d_incoming, width)
    d_incoming = d_incoming.copy() if d_incoming is competition.d_incoming else d_incoming
    dh = np.empty_like(d_incoming)
    d_acc, d_keep = (np.zeros((n_streams, width), dtype) for _ in range(2))
    d_gain, d_log_bound = (np.empty((n_streams, n), dtype) for _ in range(2))
    steps = _steps(parameters, graph, config, tokens, path.schedule, width)
    signal, pre_activation = _pad(path.signal, width), _pad(path.pre_activation, width)
    sums = d_acc, d_keep, d_gain, d_log_bound
    work = _Backward(incoming, signal, pre_activation, d_incoming, dh, *sums)
    _run_path_back(_edges(parameters, config, width), steps, work)
    if "log_bound" in gradients:
        gradients["log_bound"] += d_log_bound.sum()
    edges = _edges(gradients, config, width)
    a, flat_dh = incoming.reshape(-1, width), dh.reshape(-1, width)
    scratch = _scratch("outer", (numba.get_num_threads(), 2 * _GATHERED * width), dtype)
    for index, (d_weight, d_bias) in zip(
        steps[:3], (edges[0:2], edges[2:4], edges[4:6]), strict=True
    ):
        if len(d_weight):
            label, start, order = _group(index.reshape(-1), len(d_bias) // width)
            # To bring a matrix to cache and back is worth about 8 rows.
            bins, dealt = _deal(np.diff(start) + 8.0, _BINS)
            groups = _Outer(label, start, order, bins, dealt, a, flat_dh, d_weight, d_bias)
            _add_outer(groups, scratch)
    _keep_gradients(gradients, edges, config, width)
    d_incoming, d_acc, d_keep = (_trim(x, d) for x in (d_incoming, d_acc, d_keep))
    if path.schedule.first == 0 and config.start == "node" and n > 0:
        d_start = d_incoming[:, 0]
        if config.memory == "leaky":
            d_start = d_start + path.schedule.keep[0] * d_acc
        np.add.at(gradients["node_bias"], tokens[:, 0], d_start * gelu_derivative(path.start))
    da_dot_a = np.einsum("bnd,bnd->nd", d_incoming, path.incoming)
    sums = da_dot_a, d_keep.sum(axis=0), d_gain.sum(axis=0)
    gradients.update(config.memory_kind.schedule_backward(parameters, path.schedule, sums))
    return gradients


def _keep_gradients(
    gradients: dict[str, Array], edges: _Edges, config: ModelConfig, width: int
) -> None:
    """Bring padded gradients back into the arrays they were copied from."""
    d = config.d_node
    if width == d:
        return  # the kernels worked on the arrays themselves
    for name, flat in zip(_edge_names(config), edges, strict=False):
        axes = 2 if name.endswith("weight") else 1
        padded = flat.reshape(len(gradients[name]), *[width] * axes)
        gradients[name][...] = padded[:, :d, :d] if axes == 2 else padded[:, :d]


# -------------------------------------------------------------------------------- competition pass


@_jit(parallel=True)
def _gather(rows: Array, order: Array, out: Array) -> None:
    """out[k] = rows[order[k]]"""
    for k in prange(order.size):
        for o in range(rows.shape[1]):
            out[k, o] = rows[order[k], o]


@_jit(parallel=True)
def _scatter(rows: Array, order: Array, out: Array) -> None:
    """out[order[k]] = rows[k]"""
    for k in prange(order.size):
        for o in range(out.shape[1]):
            out[order[k], o] = rows[k, o]


@_jit(parallel=True)
def _add_up(parts: Array, out: Array) -> None:
    """out = the sum of parts (n, M), always in the same order."""
    for j in prange(parts.shape[1]):
        total = parts[0, j]
        for b in range(1, parts.shape[0]):
            total += parts[b, j]
        out[j] = total


class _Work(NamedTuple):
    """Positions sorted by source, and the sources by bin."""

    signals: Array  # (M, d)
    encoding: Array  # (M, d), or (0, d) where there is none
    true_column: Array  # (M,)
    true_prior: Array  # (M,)
    columns: Array  # (M, C) of sampled candidates; C = 0: full softmax
    column_priors: Array  # (M, C)
    source: Array  # (G,)
    start: Array  # (G + 1,) first position of each source
    bin_start: Array  # (_BINS + 1,) first source of each bin
    share: Array  # (M,) weight of each position in the mean loss
    place: Array  # (M,) where a position was before it was sorted
    log_prior: Array  # (M, V), by place, π of every target; or (0, V): that of the source
    change: Array  # (M, V), by place, its derivative in κ
    d_trust: Array  # (M,), by place, dloss/dκ
    below: float  # probabilities below are rounded at random
    draws: Array  # (M,) for that; (0,): no rounding


@_jit()
def _group(labels: Array, n_labels: int) -> tuple[Array, Array, Array]:
    """`minibrillm.functional.group_by` for labels 0 … n_labels - 1 (counting sort); skips -1."""
    start = np.zeros(n_labels + 1, np.int64)
    for x in labels:
        if x >= 0:
            start[x + 1] += 1
    label = np.flatnonzero(start[1:])
    start = np.cumsum(start)
    order, fill = np.empty(start[-1], np.int64), start.copy()
    for r in range(labels.size):
        x = labels[r]
        if x >= 0:
            order[fill[x]] = r
            fill[x] += 1
    return label, np.append(start[label], start[-1]), order


@_jit()
def _deal(cost: Array, n_bins: int) -> tuple[Array, Array]:
    """Deal groups out to bins, heaviest first, each to the lightest half, quarter, eighth …

    So any number of threads that share the bins evenly has an even load.
    """
    bin_of = np.zeros(cost.size, np.int64)
    order = np.argsort(-cost)
    load = np.zeros(2 * n_bins)  # a binary tree: the children of node k are 2k and 2k + 1
    for g in order:
        k = 1
        while k < n_bins:
            k = 2 * k if load[2 * k] <= load[2 * k + 1] else 2 * k + 1
            load[k] += cost[g]
        bin_of[g] = k - n_bins
    start = np.zeros(n_bins + 1, np.int64)
    for g in range(cost.size):
        start[bin_of[g] + 1] += 1
    start = np.cumsum(start)
    group, fill = np.empty(cost.size, np.int64), start.copy()
    for g in order:
        group[fill[bin_of[g]]] = g
        fill[bin_of[g]] += 1
    return start, group


@_jit()
def _pack(
    edges: _Edges, u: int, low: int, targets: Array, d: int, weight: Array, bias: Array
) -> None:
    """Compose the edges that leave u: weight (K, d, d), bias (K, d), flat."""
    n_columns, square = bias.size // d, d * d
    if edges.dendrite_weight.size == 0:
        n, first = targets.size, low + 1
        _copy_to(weight, 0, edges.main_weight, first * square, n * square)
        _copy_to(bias, 0, edges.main_bias, first * d, n * d)
        _copy_to(weight, n * square, edges.main_weight, 0, square)
        _copy_to(bias, n * d, edges.main_bias, 0, d)
        return
    _copy_to(weight, 0, edges.dendrite_weight, 0, n_columns * square)
    _copy_to(bias, 0, edges.dendrite_bias, 0, n_columns * d)
    for k in range(n_columns):
        _add_to(weight, k * square, edges.main_weight, u * square, square)
    _add_to_segments(bias, 0, edges.main_bias, u * d, n_columns, d)
    for e in range(targets.size):
        k = targets[e]
        _add_to(weight, k * square, edges.private_weight, (low + e) * square, square)
        _add_to(bias, k * d, edges.private_bias, (low + e) * d, d)


@_jit()
def _unpack(
    d_edges: _Edges,
    common_weight: Array,
    common_bias: Array,
    u: int,
    low: int,
    targets: Array,
    d: int,
    weight: Array,
    bias: Array,
) -> None:
    """The way back of `_pack`, for gradients. What several sources share (dendrites, the shared
    edge) is added to the bin's own ``common`` arrays."""
    n_columns, square = bias.size // d, d * d
    if d_edges.dendrite_weight.size == 0:
        n, first = targets.size, low + 1
        _copy_to(d_edges.main_weight, first * square, weight, 0, n * square)
        _copy_to(d_edges.main_bias, first * d, bias, 0, n * d)
        _add_to(common_weight, 0, weight, n * square, square)
        _add_to(common_bias, 0, bias, n * d, d)
        return
    _add_to(common_weight, 0, weight, 0, n_columns * square)
    _add_to(common_bias, 0, bias, 0, n_columns * d)
    for k in range(n_columns):
        _add_to(d_edges.main_weight, u * square, weight, k * square, square)
    _add_up_segments(bias, 0, d_edges.main_bias, u * d, n_columns, d)
    for e in range(targets.size):
        k = targets[e]
        _copy_to(d_edges.private_weight, (low + e) * square, weight, k * square, square)
        _copy_to(d_edges.private_bias, (low + e) * d, bias, k * d, d)


@_jit()
def _weigh_columns(prior: _Prior, u: int, targets: Array, classes: bool, out: Array) -> None:
    """Log weight of every column at u in the full softmax (eq. 9)."""
    low, high = prior.indptr[u], prior.indptr[u + 1]
    if classes:  # private edges, then the class of all other nodes
        for k in range(targets.size):
            out[k] = prior.log_backoff[u] + prior.log_unigram[targets[k]]
        k = 0
        for j in range(low, high):  # both lists ascend
            while k < targets.size and targets[k] < prior.targets[j]:
                k += 1
            if k < targets.size and targets[k] == prior.targets[j]:
                out[k] = prior.log_probability[j]
        out[targets.size] = prior.log_unseen[u]
        return
    for v in range(out.size):
        out[v] = prior.log_backoff[u] + prior.log_unigram[v]
    for j in range(low, high):
        out[prior.targets[j]] = prior.log_probability[j]


@_jit(fastmath=_FLAGS)
def _hear(h: Array, e: Array) -> None:
    """One position: energies e (K,) of pre-activations h (K d), which are lost (eq. 4-5)."""
    _gelu_norms(h, e.size, h.size // e.size, e)


@_jit(fastmath=_FLAGS)
def _answer(h: Array, y: Array, e: Array) -> None:
    """One position: pre-activations h (K d) become gelu gelu', y (K d) gelu, e (K,) energies."""
    d = h.size // e.size
    for j in range(h.size):
        x = h[j]
        cdf, pdf = _cdf_pdf(x)
        y[j] = x * cdf
        h[j] = x * cdf * (cdf + x * pdf)
    _norms(y, e.size, d, e)


@_jit(fastmath=_FLAGS)
def _scale_columns(h: Array, scale: Array, d_bias: Array) -> None:
    """gelu gelu' (K d) becomes dh, times dloss/dE over E (eq. 11-12); adds it to d_bias."""
    _scale_segments(h, 0, scale, 0, scale.size, h.size // scale.size)
    for j in range(h.size):
        d_bias[j] += h[j]


@_jit()
def _candidate_weights(columns: Array, priors: Array, out: Array) -> None:
    """Log weight of every column when only candidates compete: several may share a column."""
    out[:] = -np.inf
    for c in range(columns.size):
        k, x = columns[c], priors[c]
        high, low = max(out[k], x), min(out[k], x)
        out[k] = high + math.log1p(math.exp(low - high))


@_jit(fastmath=_FLAGS)
def _softmax(e: Array, weights: Array, p: Array) -> float:
    """p = softmax(e + weights); returns the log of its normaliser."""
    top = e[0] + weights[0]
    for k in range(e.size):
        p[k] = e[k] + weights[k]
        top = max(top, p[k])
    for k in range(e.size):
        p[k] = _exp(p[k] - top)
    total = p[0]
    for k in range(1, e.size):
        total += p[k]
    for k in range(e.size):
        p[k] /= total
    return top + math.log(total)


@_jit()  # no re-ordering here: the same choice as the textbook
def _round_at_random(p: Array, below: float, draw: float) -> None:
    """As `minibrillm.functional.round_at_random`, for one position and in place."""
    line, whole = draw, 1.0
    for k in range(p.size):
        if p[k] < below:
            line += np.float64(p[k]) / below
            p[k] = 0
            if line >= whole:
                p[k] = below
                whole += 1


@_jit(fastmath=_FLAGS)
def _judge(work: _Work, r: int, e: Array, log_weight: Array, scale: Array) -> float:
    """−log p of the true target; ``scale`` becomes dloss/dE over E for every column (eq. 11)."""
    normaliser = _softmax(e, log_weight, scale)
    true = work.true_column[r]
    if work.d_trust.size > 0:
        place, total = work.place[r], scale.dtype.type(0)
        change = work.change[place]
        for k in range(scale.size):
            total += scale[k] * (change[k] - change[true])
        work.d_trust[place] = work.share[r] * total
    if work.draws.size > 0:
        _round_at_random(scale, work.below, work.draws[r])
    scale[true] -= 1
    # Where the energy is next to 0, so is y, and the product whatever the scale, if that is finite.
    least = _LEAST_ENERGY if e.itemsize == 4 else _TINY
    for k in range(e.size):
        scale[k] = scale[k] * work.share[r] / max(e[k], least)
    return normaliser - e[true] - work.true_prior[r]


_TILE = 1 << 16  # pre-activations in one block of positions, to stay in a core's second cache
_MIN_ROWS, _MAX_ROWS = 16, 256  # positions in a block


class _Sources(NamedTuple):
    """A competition split by source."""

    indptr: Array
    targets: Array
    common_weight: Array
    common_bias: Array
    gradient: bool
    nll: Array
    d_signals: Array


@_jit(fastmath=_FLAGS)
def _compete_in_bin(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, c: _Sources, memory: Array, b: int
) -> None:
    """The sources of one bin (eq. 4-13)."""
    d = work.signals.shape[1]
    signals, d_flat = work.signals.reshape(-1), c.d_signals.reshape(-1)
    c.common_weight[b] = 0
    c.common_bias[b] = 0
    classes = edges.dendrite_weight.size == 0
    n_nodes = c.indptr.size - 1
    for g in range(work.bin_start[b], work.bin_start[b + 1]):
        u = work.source[g]
        low = c.indptr[u]
        own = c.targets[low : c.indptr[u + 1]]
        n_columns = own.size + 1 if classes else n_nodes
        width = n_columns * d
        # Carve the scratch memory: edges, their transposes and gradients, one block.
        at = d * width
        weight, transposed = memory[:at], memory[at : 2 * at]
        d_weight, at = memory[2 * at : 3 * at], 3 * at
        bias, d_bias = memory[at : at + width], memory[at + width : at + 2 * width]
        y, at = memory[at + 2 * width : at + 3 * width], at + 3 * width
        e, scale = memory[at : at + n_columns], memory[at + n_columns : at + 2 * n_columns]
        log_weight = memory[at + 2 * n_columns : at + 3 * n_columns]
        h = memory[at + 3 * n_columns :]

        _pack(edges, u, low, own, d, weight, bias)
        _weigh_columns(prior, u, own, classes, log_weight)
        if c.gradient:
            _transpose(weight, n_columns, d, transposed)
            d_weight[:] = 0
            d_bias[:] = 0
        block = max(_MIN_ROWS, min(_MAX_ROWS, _TILE // width // _ROWS * _ROWS))
        for first in range(work.start[g], work.start[g + 1], block):
            last = min(first + block, work.start[g + 1])
            n = last - first
            for r in range(n):
                row = h[r * width : (r + 1) * width]
                _copy_to(row, 0, bias, 0, width)
                if work.encoding.shape[0] > 0:
                    _add_to_segments(row, 0, work.encoding[first + r], 0, n_columns, d)
            _answers(h, width, signals, first * d, weight, 0, n, n_columns, d)
            for r in range(n):
                row = h[r * width : (r + 1) * width]
                if c.gradient:
                    _answer(row, y, e)
                else:
                    _hear(row, e)
                if work.columns.shape[1] > 0:
                    _candidate_weights(
                        work.columns[first + r], work.column_priors[first + r], log_weight
                    )
                elif work.log_prior.shape[0] > 0:
                    _copy_to(log_weight, 0, work.log_prior[work.place[first + r]], 0, n_columns)
                c.nll[first + r] = _judge(work, first + r, e, log_weight, scale)
                if c.gradient:
                    _scale_columns(row, scale, d_bias)
            if c.gradient:
                d_flat[first * d : last * d] = 0
                _signal_gradients(d_flat, first * d, h, width, transposed, n, n_columns, d)
                _edge_gradients(d_weight, 0, signals, first * d, h, 0, width, n, n_columns, d)
        if c.gradient:
            _unpack(d_edges, c.common_weight[b], c.common_bias[b], u, low, own, d, d_weight, d_bias)


@_jit(parallel=True)
def _run_competition(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, c: _Sources, scratch: Array
) -> None:
    for b in prange(_BINS):
        _compete_in_bin(edges, d_edges, prior, work, c, scratch[numba.get_thread_id()], np.int64(b))


# Where the composed edges of a source outgrow a core's cache, composing them source by source
# costs more than it saves. Then the parts of an edge stay apart. The work is split by target, so
# that each bin owns the dendrites and synapses whose gradients it adds up; what it sends back to
# the signals and axons is added up over the bins at the end. Pre-activations are computed twice
# (energies first, gradients once the softmax is known): cheaper than to keep V d per position.

# To compose all edges of a source is worth it while they fit in a core's cache, or where many
# positions share the source. Measured: with V d² elements for every source, apart is faster above
# about 42 thousand elements for every position.
_PARTS_ABOVE = 1 << 17  # elements, V d²
_ELEMENTS_A_POSITION = 42_000
_CHUNK = 1024  # pre-activations of one position that are worked on at a time
_ROWS_AT_ONCE = 64  # positions in a block
_POSITIONS = 4096  # positions in one call, to bound the memory for energies


def _apart(elements: int, positions_a_source: float) -> bool:
    """Whether to keep the parts of the edges apart: V d², and positions for every source."""
    return elements > max(_PARTS_ABOVE, _ELEMENTS_A_POSITION * positions_a_source)


class _TargetArrays(NamedTuple):
    """What a competition split by target reads and writes; M positions, sorted by source."""

    indptr: Array
    targets: Array
    dendrites: Array  # (V d d,) transposed, for gradients
    synapses: Array  # (E d d,) likewise
    chunk: int  # targets that are worked on at a time
    gradient: bool
    axon: Array  # (M d,) what every target hears from the source
    energies: Array  # (M, V); once judged, dloss/dE over E
    da: Array  # (_BINS, M d) what each bin sends back to the signals
    d_axon: Array  # (_BINS, M d) and to ``axon``
    nll: Array
    d_signals: Array


class _Targets(NamedTuple):
    """A competition split by target. (Numba takes no tuples in tuples into a parallel loop, so
    that this one is put together inside.)"""

    edges: _Edges
    d_edges: _Edges
    prior: _Prior
    work: _Work
    its: _TargetArrays


@_jit(fastmath=_FLAGS)
def _hear_axon(c: _Targets, g: int) -> None:
    """What every target hears from one source: a U + b + P."""
    d = c.work.signals.shape[1]
    u, begin, end = c.work.source[g], c.work.start[g], c.work.start[g + 1]
    for r in range(begin, end):
        _copy_to(c.its.axon, r * d, c.edges.main_bias, u * d, d)
        if c.work.encoding.shape[0] > 0:
            _add_to(c.its.axon, r * d, c.work.encoding[r], 0, d)
    signals, axon = c.work.signals.reshape(-1), c.its.axon[begin * d : end * d]
    _answers(axon, d, signals, begin * d, c.edges.main_weight, u * d * d, end - begin, 1, d)


@_jit(parallel=True)
def _run_axons(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays
) -> None:
    for g in prange(work.source.size):
        _hear_axon(_Targets(edges, d_edges, prior, work, its), np.int64(g))


@_jit()
def _own(c: _Targets, g: int, low: int, high: int) -> tuple[int, int]:
    """First and last private edge of source number g with a target in low … high - 1."""
    u = c.work.source[g]
    own = c.its.targets[c.its.indptr[u] : c.its.indptr[u + 1]]
    return (
        c.its.indptr[u] + np.searchsorted(own, low),
        c.its.indptr[u] + np.searchsorted(own, high),
    )


@_jit(fastmath=_FLAGS)
def _pre_activations(
    c: _Targets, g: int, first: int, last: int, low: int, high: int, h: Array
) -> None:
    """h (rows, width) of the positions first … last - 1 and the targets low … high - 1.

    ``g`` is the source of the first position.
    """
    d = c.work.signals.shape[1]
    signals, edges = c.work.signals.reshape(-1), c.edges
    k, rows, square = high - low, last - first, d * d
    for r in range(rows):
        _copy_to(h, r * k * d, edges.dendrite_bias, low * d, k * d)
        _add_to_segments(h, r * k * d, c.its.axon, (first + r) * d, k, d)
    _answers(h, k * d, signals, first * d, edges.dendrite_weight, low * square, rows, k, d)
    begin = first
    while begin < last:
        end = min(last, c.work.start[g + 1])
        for j in range(*_own(c, g, low, high)):
            answer = h[(begin - first) * k * d + (c.its.targets[j] - low) * d :]
            for r in range(end - begin):
                _add_to(answer, r * k * d, edges.private_bias, j * d, d)
            _answers(
                answer,
                k * d,
                signals,
                begin * d,
                edges.private_weight,
                j * square,
                end - begin,
                1,
                d,
            )
        begin = end
        g += 1


@_jit(fastmath=_FLAGS)
def _energies_in_bin(c: _Targets, memory: Array, b: int) -> None:
    """Energies of the targets of one bin, for all positions."""
    n_rows, d = c.work.signals.shape
    n_nodes = c.its.indptr.size - 1
    for low in range(b * c.its.chunk, n_nodes, _BINS * c.its.chunk):
        high = min(low + c.its.chunk, n_nodes)
        width, g = (high - low) * d, 0
        for first in range(0, n_rows, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, n_rows)
            while c.work.start[g + 1] <= first:
                g += 1
            _pre_activations(c, g, first, last, low, high, memory)
            for r in range(last - first):
                _hear(memory[r * width : (r + 1) * width], c.its.energies[first + r, low:high])


@_jit(parallel=True)
def _run_energy_bins(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays, scratch: Array
) -> None:
    for b in prange(_BINS):
        _energies_in_bin(
            _Targets(edges, d_edges, prior, work, its), scratch[numba.get_thread_id()], np.int64(b)
        )


@_jit(fastmath=_FLAGS)
def _judge_block(c: _Targets, memory: Array, block: int) -> None:
    """Losses of a block of positions; their energies become dloss/dE over E."""
    n_rows, n_nodes = c.its.energies.shape
    none = c.its.targets[:0]
    scale, log_weight = memory[:n_nodes], memory[n_nodes : 2 * n_nodes]
    known = -1  # source that log_weight belongs to
    first = block * _ROWS_AT_ONCE
    g = np.searchsorted(c.work.start, first, side="right") - 1
    for r in range(first, min(first + _ROWS_AT_ONCE, n_rows)):
        while c.work.start[g + 1] <= r:
            g += 1
        u = c.work.source[g]
        if c.work.columns.shape[1] > 0:
            _candidate_weights(c.work.columns[r], c.work.column_priors[r], log_weight)
        elif c.work.log_prior.shape[0] > 0:
            _copy_to(log_weight, 0, c.work.log_prior[c.work.place[r]], 0, n_nodes)
        elif u != known:
            _weigh_columns(c.prior, u, none, False, log_weight)
            known = u
        c.its.nll[r] = _judge(c.work, r, c.its.energies[r], log_weight, scale)
        if c.its.gradient:
            _copy_to(c.its.energies[r], 0, scale, 0, n_nodes)


@_jit(parallel=True)
def _run_softmax(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays, scratch: Array
) -> None:
    for block in prange((len(its.nll) + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE):
        _judge_block(
            _Targets(edges, d_edges, prior, work, its),
            scratch[numba.get_thread_id()],
            np.int64(block),
        )


@_jit(fastmath=_FLAGS)
def _gradients_in_bin(c: _Targets, memory: Array, b: int) -> None:
    """Gradients by way of the targets of one bin, for all positions."""
    n_rows, d = c.work.signals.shape
    n_nodes, square = c.its.indptr.size - 1, d * d
    signals, da, d_axon = c.work.signals.reshape(-1), c.its.da[b], c.its.d_axon[b]
    da[:] = 0
    d_axon[:] = 0
    most = c.its.chunk * d
    y, e, h = memory[:most], memory[most : 2 * most], memory[2 * most :]
    for low in range(b * c.its.chunk, n_nodes, _BINS * c.its.chunk):
        high = min(low + c.its.chunk, n_nodes)
        k, g = high - low, 0
        d_bias = c.d_edges.dendrite_bias[low * d : high * d]
        dendrites = c.its.dendrites[low * square : high * square]
        for first in range(0, n_rows, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, n_rows)
            rows = last - first
            while c.work.start[g + 1] <= first:
                g += 1
            _pre_activations(c, g, first, last, low, high, h)
            for r in range(rows):
                row = h[r * k * d : (r + 1) * k * d]
                _answer(row, y[: k * d], e[:k])
                _scale_columns(row, c.its.energies[first + r, low:high], d_bias)
                _add_up_segments(row, 0, d_axon, (first + r) * d, k, d)
            _signal_gradients(da, first * d, h, k * d, dendrites, rows, k, d)
            d_weight = c.d_edges.dendrite_weight
            _edge_gradients(d_weight, low * square, signals, first * d, h, 0, k * d, rows, k, d)
            _synapse_gradients(c, g, first, last, low, high, h, da)


@_jit(fastmath=_FLAGS)
def _synapse_gradients(
    c: _Targets, g: int, first: int, last: int, low: int, high: int, dh: Array, da: Array
) -> None:
    """The way back of `_pre_activations`, for the synapses, source by source."""
    d = c.work.signals.shape[1]
    signals, stride, square = c.work.signals.reshape(-1), (high - low) * d, d * d
    begin = first
    while begin < last:
        end = min(last, c.work.start[g + 1])
        for j in range(*_own(c, g, low, high)):
            at = (begin - first) * stride + (c.its.targets[j] - low) * d
            synapse = c.its.synapses[j * square : (j + 1) * square]
            _signal_gradients(da, begin * d, dh[at:], stride, synapse, end - begin, 1, d)
            for r in range(end - begin):
                _add_to(c.d_edges.private_bias, j * d, dh, at + r * stride, d)
            d_weight = c.d_edges.private_weight
            _edge_gradients(
                d_weight, j * square, signals, begin * d, dh, at, stride, end - begin, 1, d
            )
        begin = end
        g += 1


@_jit(parallel=True)
def _run_gradient_bins(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays, scratch: Array
) -> None:
    for b in prange(_BINS):
        _gradients_in_bin(
            _Targets(edges, d_edges, prior, work, its), scratch[numba.get_thread_id()], np.int64(b)
        )


# With small probabilities rounded, most targets of a position are left out (dloss/dE is 0). Then
# each target gathers the positions that keep it.

_KEPT = 256  # positions that are worked on at a time


class _Incoming(NamedTuple):
    """Private edges by target, and where in the work their sources are."""

    indptr: Array  # (V + 1,)
    edges: Array  # (E,)
    sources: Array  # (E,)
    group: Array  # (V,) number of each source in the work, -1: not there


@_jit(fastmath=_FLAGS)
def _kept_in_bin(c: _Targets, x: _Incoming, memory: Array, lists: Array, b: int) -> None:
    """As `_gradients_in_bin`, of the positions that keep a target."""
    n_rows, n_nodes = c.its.energies.shape
    c.its.da[b][:] = 0
    c.its.d_axon[b][:] = 0
    for low in range(b * c.its.chunk, n_nodes, _BINS * c.its.chunk):
        targets = min(low + c.its.chunk, n_nodes) - low
        for t in range(targets):
            lists[t, 0] = 0
        for r in range(n_rows):
            scale = c.its.energies[r, low : low + targets]
            for t in range(targets):
                if scale[t] != 0:
                    lists[t, 0] += 1
                    lists[t, lists[t, 0]] = r
        for t in range(targets):
            for first in range(0, lists[t, 0], _KEPT):
                last = min(first + _KEPT, lists[t, 0])
                _gradient_of_kept(c, x, low + t, lists[t, 1 + first : 1 + last], memory, b)


@_jit(fastmath=_FLAGS)
def _gradient_of_kept(
    c: _Targets, x: _Incoming, v: int, kept: Array, memory: Array, b: int
) -> None:
    """Gradients by way of one target, for some positions that keep it, in order."""
    d, n = c.work.signals.shape[1], kept.size
    square, size = d * d, _KEPT * d
    a, h, da, scale = (
        memory[:size],
        memory[size : 2 * size],
        memory[2 * size : 3 * size],
        memory[3 * size :],
    )
    signals, edges, d_edges = c.work.signals.reshape(-1), c.edges, c.d_edges
    for j in range(n):
        r = np.int64(kept[j])
        _copy_to(a, j * d, signals, r * d, d)
        _copy_to(h, j * d, c.its.axon, r * d, d)
        scale[j] = c.its.energies[r, v]
    _add_to_segments(h, 0, edges.dendrite_bias, v * d, n, d)
    _answers(h, d, a, 0, edges.dendrite_weight, v * square, n, 1, d)
    for i in range(x.indptr[v], x.indptr[v + 1]):
        e = x.edges[i]
        begin, end = _from(c, x, kept, i)
        for j in range(begin, end):
            _add_to(h, j * d, edges.private_bias, e * d, d)
        if begin < end:
            at = begin * d
            _answers(h[at:], d, a, at, edges.private_weight, e * square, end - begin, 1, d)
    for j in range(n * d):
        cdf, pdf = _cdf_pdf(h[j])
        h[j] *= cdf * (cdf + h[j] * pdf)
    _scale_segments(h, 0, scale, 0, n, d)
    da[: n * d] = 0
    dendrite = c.its.dendrites[v * square : (v + 1) * square]
    _signal_gradients(da, 0, h, d, dendrite, n, 1, d)
    _edge_gradients(d_edges.dendrite_weight, v * square, a, 0, h, 0, d, n, 1, d)
    _add_up_segments(h, 0, d_edges.dendrite_bias, v * d, n, d)
    for i in range(x.indptr[v], x.indptr[v + 1]):
        e = x.edges[i]
        begin, end = _from(c, x, kept, i)
        if begin < end:
            at, rows = begin * d, end - begin
            synapse = c.its.synapses[e * square : (e + 1) * square]
            _signal_gradients(da, at, h[at:], d, synapse, rows, 1, d)
            _edge_gradients(d_edges.private_weight, e * square, a, at, h, at, d, rows, 1, d)
            _add_up_segments(h, at, d_edges.private_bias, e * d, rows, d)
    for j in range(n):
        r = np.int64(kept[j])
        _add_to(c.its.da[b], r * d, da, j * d, d)
        _add_to(c.its.d_axon[b], r * d, h, j * d, d)


@_jit()
def _from(c: _Targets, x: _Incoming, kept: Array, i: int) -> tuple[int, int]:
    """First and last of ``kept`` that stand at the source of edge number i."""
    g = x.group[x.sources[i]]
    if g < 0:
        return 0, 0
    return (
        np.searchsorted(kept, c.work.start[g]),
        np.searchsorted(kept, c.work.start[g + 1]),
    )


@_jit(parallel=True)
def _run_kept_bins(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays,
    x: _Incoming, memory: Array, lists: Array,
) -> None:  # fmt: skip
    for b in prange(_BINS):
        thread = numba.get_thread_id()
        c = _Targets(edges, d_edges, prior, work, its)
        _kept_in_bin(c, x, memory[thread], lists[thread], np.int64(b))


@_jit(fastmath=_FLAGS)
def _axon_gradient(c: _Targets, g: int) -> None:
    """One source: add up the bins, carry what its axon sent on back."""
    d = c.work.signals.shape[1]
    signals, d_signals, d_axon = (
        c.work.signals.reshape(-1),
        c.its.d_signals.reshape(-1),
        c.its.d_axon[0],
    )
    u, begin, end = c.work.source[g], c.work.start[g], c.work.start[g + 1]
    at, n = begin * d, (end - begin) * d
    _copy_to(d_signals, at, c.its.da[0], at, n)
    for b in range(1, _BINS):
        _add_to(d_signals, at, c.its.da[b], at, n)
        _add_to(d_axon, at, c.its.d_axon[b], at, n)
    for r in range(begin, end):
        here = slice(r * d, (r + 1) * d)
        _add_back(d_axon[here], c.edges.main_weight, u, d_signals[here])
        _add_to(c.d_edges.main_bias, u * d, d_axon, r * d, d)
    d_weight = c.d_edges.main_weight
    _edge_gradients(d_weight, u * d * d, signals, at, d_axon, at, d, end - begin, 1, d)


@_jit(parallel=True)
def _run_axon_gradients(
    edges: _Edges, d_edges: _Edges, prior: _Prior, work: _Work, its: _TargetArrays
) -> None:
    for g in prange(work.source.size):
        _axon_gradient(_Targets(edges, d_edges, prior, work, its), np.int64(g))


@_jit(parallel=True)
def _transpose_all(edges: Array, d: int, transposed: Array) -> None:
    square = d * d
    for k in prange(edges.size // square):
        at = k * square
        _transpose(edges[at : at + square], 1, d, transposed[at : at + square])


def _run_targets(
    edges: _Edges,
    d_edges: _Edges,
    prior: _Prior,
    work: _Work,
    graph: TokenGraph,
    gradient: bool,
    nll: Array,
    d_signals: Array,
) -> None:
    n_rows, d = work.signals.shape
    dtype, n_nodes, threads = work.signals.dtype, graph.n_nodes, numba.get_num_threads()
    chunk = max(1, _CHUNK // d)
    tiles = _scratch("tiles", (threads, (_ROWS_AT_ONCE + 2) * chunk * d), dtype)
    rows = _scratch("rows", (threads, 2 * n_nodes), dtype)
    dendrites = _scratch("dendrites", (edges.dendrite_weight.size * gradient,), dtype)
    synapses = _scratch("synapses", (edges.private_weight.size * gradient,), dtype)
    if gradient:
        _transpose_all(edges.dendrite_weight, d, dendrites)
        _transpose_all(edges.private_weight, d, synapses)
    for first in range(0, n_rows, _POSITIONS):
        part = _slice(work, first, min(first + _POSITIONS, n_rows))
        n = len(part.signals)
        its = _TargetArrays(
            graph.indptr,
            graph.targets,
            dendrites,
            synapses,
            chunk,
            gradient,
            _scratch("axon", (n * d,), dtype),
            _scratch("energies", (n, n_nodes), dtype),
            _scratch("da", (_BINS, n * d * gradient), dtype),
            _scratch("d_axon", (_BINS, n * d * gradient), dtype),
            nll[first : first + n],
            d_signals[first : first + n],
        )
        c = edges, d_edges, prior, part, its
        _run_axons(*c)
        _run_energy_bins(*c, tiles)
        _run_softmax(*c, rows)
        if gradient and part.draws.size > 0:
            group = np.full(n_nodes, -1)
            group[part.source] = np.arange(len(part.source))
            memory = _scratch("kept", (threads, _KEPT * (3 * d + 1)), dtype)
            lists = _scratch("lists", (threads, chunk, n + 1), np.int32)
            _run_kept_bins(*c, _Incoming(*_incoming_edges(graph), group), memory, lists)
        elif gradient:
            _run_gradient_bins(*c, tiles)
        if gradient:
            _run_axon_gradients(*c)


def _incoming_edges(graph: TokenGraph) -> tuple[Array, Array, Array]:
    order = np.argsort(graph.targets, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(graph.targets, minlength=graph.n_nodes))])
    return indptr, order, graph.sources[order]


def _slice(work: _Work, first: int, last: int) -> _Work:
    """The positions first … last - 1 and their sources."""
    low = np.searchsorted(work.start, first, side="right") - 1
    high = np.searchsorted(work.start, last, side="left")
    start = np.clip(work.start[low : high + 1], first, last) - first
    whole = ("source", "start", "bin_start", "log_prior", "change", "d_trust", "below")
    rows = {name: getattr(work, name)[first:last] for name in work._fields if name not in whole}
    return work._replace(source=work.source[low:high], start=start, **rows)


@_jit()
def _arrange(tokens: Array, columns: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Sort the positions by bin and source; ``columns`` (V,) compete at each source.

    Returns sources, where each of them starts, where each bin does, the order (sorted position k
    was flat position ``order[k]``), and each position's source and target.
    """
    n_streams, n = tokens.shape[0], tokens.shape[1] - 1
    label, first_of, by_source = _group(tokens[:, :-1].copy().reshape(-1), columns.size)
    cost = np.empty(label.size)
    for g in range(label.size):
        size = first_of[g + 1] - first_of[g]
        # A source costs its positions (those that fill no tile three times as much), and the
        # packing of its edges, which is worth about a dozen of them.
        cost[g] = columns[label[g]] * (12.0 + size + 2 * (size % _ROWS))
    bin_start, dealt = _deal(cost, _BINS)
    start = np.zeros(label.size + 1, np.int64)
    order = np.empty(n_streams * n, np.int64)
    u, v = np.empty_like(order), np.empty_like(order)
    k = 0
    for i in range(dealt.size):
        for r in by_source[first_of[dealt[i]] : first_of[dealt[i] + 1]]:
            b, t = divmod(r, n)
            order[k], u[k], v[k] = r, tokens[b, t], tokens[b, t + 1]
            k += 1
        start[i + 1] = k
    return label[dealt], start, bin_start, order, u, v


def _work(
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int,
    candidates: Array | None,
    weights: Array | None,
    log_prior: PriorRows | None,
    rounding: Rounding | None,
    gradient: bool,
    width: int,
) -> _Work:
    """Sort the positions by bin and source, and look up the column of each target."""
    _, n, d = incoming.shape
    dtype, three_part = incoming.dtype, config.edges == "three_part"
    columns = np.full(graph.n_nodes, graph.n_nodes) if three_part else graph.out_degree + 1
    source, start, bin_start, order, u, v = _arrange(tokens, columns)
    encoding = np.empty((0, width), dtype)
    if config.positions != "none":
        rows = position_encoding(config.positions, first + config.first_position, n, d)
        encoding = _pad(rows.astype(dtype), width)[order % n]

    def column(source: Array, target: Array) -> Array:
        return target if three_part else graph.column(source, target)

    rows = change = np.empty((0, graph.n_nodes), dtype)
    if log_prior is not None:
        rows = log_prior.log_prior.reshape(len(u), -1)
        change = log_prior.change.reshape(len(u), -1)

    def prior(targets: Array) -> Array:
        if log_prior is None:
            return graph.log_prior(u[:, None], targets).astype(dtype)
        return rows[order[:, None], targets]

    chosen, priors = np.empty((len(u), 0), np.int64), np.empty((len(u), 0), dtype)
    if candidates is not None:
        those = candidates.reshape(len(u), -1)[order]
        chosen, priors = column(u[:, None], those), prior(those)
    signals = np.empty((len(u), width), dtype)
    _gather(_pad(incoming.reshape(-1, d), width), order, signals)
    return _Work(
        signals,
        encoding,
        column(u, v),
        prior(v[:, None])[:, 0],
        chosen,
        priors,
        source,
        start,
        bin_start,
        (np.ones(len(u)) if weights is None else weights.reshape(-1)).astype(dtype)[order],
        order,
        rows,
        change,
        np.empty(len(change) * gradient, dtype),
        0.0 if rounding is None else rounding.below,
        np.empty(0) if rounding is None else rounding.draws.reshape(-1)[order],
    )


@_jit(parallel=True)
def _clear(array: Array) -> None:
    for j in prange(array.size):
        array[j] = 0


def _zeros_like(array: Array) -> Array:
    """As NumPy's, but the threads share the work of bringing memory in."""
    if array.size <= _AT_ONCE:
        return np.zeros_like(array)
    out = np.empty_like(array)
    _clear(out.reshape(-1))
    return out


_SCRATCH: dict[str, Array] = {}


def _scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Memory kept from call to call: fresh pages cost as much as the work done in them."""
    size = math.prod(shape)
    held = _SCRATCH.get(name)
    if held is None or held.size < size or held.dtype != dtype:
        held = _SCRATCH[name] = np.empty(size, dtype)
    return held[:size].reshape(shape)


@_serial
def compete(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    *,
    share: Array | None = None,
    candidates: Array | None = None,
    log_prior: PriorRows | None = None,
    rounding: Rounding | None = None,
) -> Competition:
    """As `minibrillm.reference.compete`."""
    incoming, first, gradient, weights = (
        path.incoming,
        path.schedule.first,
        share is not None,
        share,
    )
    n_streams, n, d = incoming.shape
    dtype, n_nodes = incoming.dtype, graph.n_nodes
    width = _width(config, dtype)
    work = _work(
        graph,
        config,
        tokens,
        incoming,
        first,
        candidates,
        weights,
        log_prior,
        rounding,
        gradient,
        width,
    )
    three_part = config.edges == "three_part"

    gradients: dict[str, Array] = {}
    if gradient:
        gradients = {name: _zeros_like(array) for name, array in parameters.items()}
    nll = np.empty(len(work.place), dtype)
    d_signals = np.empty((len(nll) if gradient else 0, width), dtype)
    edges = _edges(parameters, config, width)
    d_edges = _edges(gradients, config, width) if gradient else edges
    if three_part and _apart(n_nodes * width * width, len(nll) / len(work.source)):
        _run_targets(edges, d_edges, _prior(graph, config), work, graph, gradient, nll, d_signals)
    else:
        n_columns = n_nodes if three_part else int(graph.out_degree.max()) + 1
        n_common = (n_nodes if three_part else 1) if gradient else 0
        common_weight = _scratch("common_weight", (_BINS, n_common * width * width), dtype)
        common_bias = _scratch("common_bias", (_BINS, n_common * width), dtype)
        size = n_columns * (3 * width * width + 3 * width + 3)
        size += max(_MIN_ROWS * n_columns * width, _TILE)
        sources = _Sources(
            graph.indptr,
            graph.targets,
            common_weight,
            common_bias,
            gradient,
            nll,
            d_signals,
        )
        tiles = _scratch("tiles", (numba.get_num_threads(), size), dtype)
        _run_competition(edges, d_edges, _prior(graph, config), work, sources, tiles)
        if gradient:
            weight, bias = d_edges[2:4] if three_part else d_edges[:2]
            _add_up(common_weight, weight)
            _add_up(common_bias, bias)
    out_nll, d_incoming = np.empty_like(nll), np.empty((len(d_signals), d), dtype)
    out_nll[work.place] = nll
    if gradient:
        _keep_gradients(gradients, d_edges, config, width)
        _scatter(d_signals, work.place, d_incoming)
        if log_prior is not None:
            d_trust = gradients["context_trust"]
            d_trust += np.bincount(log_prior.length.reshape(-1), work.d_trust, d_trust.size)
        d_incoming = d_incoming.reshape(incoming.shape)
    return Competition(out_nll.reshape(n_streams, n), d_incoming, gradients)


# ---------------------------------------------------------------------------------- n-gram prior


class _Ngrams(NamedTuple):
    """The levels of `KneserNey`, one after the other: those of order k + 1 from ``at[k]`` on."""

    targets: Array  # (Σ N_k,) last token of each k-gram
    counts: Array  # (Σ N_k,)
    share: Array  # (Σ N_k,)
    first: Array  # (Σ N_{k-1},) place of each context's first k-gram
    last: Array  # and the place after its last
    total: Array  # (Σ N_{k-1},)
    taken: Array  # (Σ N_{k-1},)
    discounts: Array  # (n, 4) D(0) … D(3)
    grams_at: Array  # (n,)
    contexts_at: Array  # (n,)


def _flat(ngrams: KneserNey, dtype: Any) -> _Ngrams:
    """Made once for each model and precision, and kept with it."""
    name = f"_flat_{np.dtype(dtype)}"
    held = ngrams.__dict__.get(name)
    if held is None:
        levels, n = ngrams.levels, ngrams.n_nodes
        at = np.cumsum([0, *(len(level.keys) for level in levels)])
        contexts = np.cumsum([0, *(level.n_contexts for level in levels)])[:-1]
        firsts = [level.first + k for level, k in zip(levels, at[:-1], strict=True)]
        held = ngrams.__dict__[name] = _Ngrams(
            np.concatenate([level.keys % n for level in levels]).astype(np.int32),
            np.concatenate([level.counts for level in levels]).astype(np.int32),
            np.concatenate([level.share for level in levels]).astype(dtype),
            np.concatenate([first[:-1] for first in firsts]),
            np.concatenate([first[1:] for first in firsts]),
            np.concatenate([level.total for level in levels]),
            np.concatenate([level.taken for level in levels]),
            np.array([[0.0, *level.discounts] for level in levels]),
            at[:-1],
            contexts,
        )
    return held


_MANTISSA, _EXPONENT_OF_ONE = np.int32(0x7FFFFF), np.int32(0x3F800000)
_SQRT_TWO, _LN2 = _F(math.sqrt(2)), _F(math.log(2))


def _log(x: Any) -> Any:
    """log x for x > 0."""
    return math.log(x)  # without the compiler; compiled, the overload below takes its place


@overload(_log, inline="always")
def _log_overload(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            # Without a branch, so that loops vectorise: x = m 2^e with m in [√½, √2).
            bits = np.float32(x).view(np.int32)
            m = np.int32((bits & _MANTISSA) | _EXPONENT_OF_ONE).view(np.float32)
            high = m > _SQRT_TWO
            e = np.float32(np.int32(bits >> np.int32(23)) - np.int32(127)) + (
                _ONE if high else _F(0.0)
            )
            m = m * _HALF if high else m
            s = (m - _ONE) / (m + _ONE)
            q = s * s
            series = q * (_F(1 / 3) + q * (_F(1 / 5) + q * (_F(1 / 7) + q * _F(1 / 9))))
            return e * _LN2 + _F(2.0) * (s + s * series)

        return single

    def double(x: Any) -> Any:
        return math.log(x)

    return double


@_jit()
def _after(g: _Ngrams, k: int, context: int, token: int) -> int:
    """Place of the (k+1)-gram that is a context of k tokens and a token after it; -1: not seen."""
    first = g.first[g.contexts_at[k] + context]
    after = g.targets[first : g.last[g.contexts_at[k] + context]]  # ascending
    j = np.searchsorted(after, token)
    return first + j if j < after.size and after[j] == token else -1


@_jit()
def _find_contexts(g: _Ngrams, tokens: Array, contexts: Array) -> None:
    """Which k-gram ends at each token of one stream, as `KneserNey.grams`: (T, n)."""
    for i in range(tokens.size):
        for k in range(contexts.shape[1]):
            before = 0
            if k > 0:
                before = contexts[i - 1, k - 1] if i > 0 else -1
            contexts[i, k] = -1
            if before < 0:
                continue  # nor is any longer one known, but all entries are to be written
            place = _after(g, k, before, tokens[i])
            if place >= 0:
                contexts[i, k] = place - g.grams_at[k]


@_jit(fastmath=_FLAGS)
def _ngram_row(g: _Ngrams, context: Array, truth: int, p: Array) -> int:
    """p (V,) of every target after one context; returns how many of its tokens were of use.

    ``truth``: the token that follows, whose place is not to be counted; -1: all counts.
    """
    known = 0  # tokens of the context that were seen
    while known < context.size and context[known] >= 0:
        known += 1
    # From the longest context to none: what each order leaves to those below it, and whether the
    # place that is not counted takes one from them (`KneserNey._loses`).
    left, length, goes = 1.0, 0, truth >= 0
    p[:] = 0
    for k in range(known, -1, -1):
        before = context[k - 1] if k > 0 else 0
        here = g.contexts_at[k] + before
        total, taken = g.total[here], g.taken[here]
        count, true_share = 0, 0.0
        if goes:
            place = _after(g, k, before, truth)
            if place >= 0:
                count = g.counts[place]  # 0: the text begins so, nothing is before it
                goes = count <= 1
        if count > 0:
            discount = g.discounts[k]
            total -= 1
            taken += discount[min(count - 1, 3)] - discount[min(count, 3)]
            true_share = count - 1 - discount[min(count - 1, 3)]
        if total <= 0:
            continue
        length = max(length, k)
        target = truth if count > 0 else 0
        kept = p[target] + p.dtype.type(left * true_share / total)
        times = p.dtype.type(left * g.total[here] / total)
        for j in range(g.first[here], g.last[here]):
            p[g.targets[j]] += times * g.share[j]
        if count > 0:
            p[target] = kept
        left *= taken / total
    rest = p.dtype.type(left / p.size)
    for v in range(p.size):
        p[v] += rest
    return length


@_jit(fastmath=_FLAGS)
def _mix(trust: float, far: Array, near: Array, out: Array, change: Array) -> None:
    """π (V,) of one position and its derivative in κ, from both priors: p and log p."""
    for v in range(out.size):
        change[v] = _log(far[v]) - near[v]
        out[v] = near[v] + trust * change[v]


class _Rows(NamedTuple):
    """What `prior_rows` reads and writes; M positions."""

    sources: Array  # (M,)
    contexts: Array  # (M, n - 1)
    truth: Array  # (M,) what follows, not to be counted; (0,): all counts
    trust: Array  # (n,)
    p: Array  # (threads, 2, V)
    log_prior: Array  # (M, V)
    change: Array  # (M, V)
    length: Array  # (M,)


@_jit(fastmath=_FLAGS)
def _prior_row(
    g: _Ngrams, bigrams: _Ngrams, hebbian: _Prior, x: _Rows, memory: Array, m: int
) -> None:
    """One row of `prior_rows`."""
    far, near = memory[0], memory[1]
    if x.truth.size > 0:
        length = _ngram_row(g, x.contexts[m], x.truth[m], far)
        _ngram_row(bigrams, x.contexts[m, :1], x.truth[m], near)
        for v in range(near.size):
            near[v] = _log(near[v])
    else:
        length = _ngram_row(g, x.contexts[m], -1, far)
        _weigh_columns(hebbian, x.sources[m], x.sources[:0], False, near)
    _mix(x.trust[length], far, near, x.log_prior[m], x.change[m])
    x.length[m] = length


@_jit(parallel=True)
def _run_contexts(g: _Ngrams, tokens: Array, contexts: Array) -> None:
    for b in prange(len(tokens)):
        _find_contexts(g, tokens[b], contexts[b])


@_jit(parallel=True)
def _run_prior_rows(g: _Ngrams, bigrams: _Ngrams, hebbian: _Prior, x: _Rows) -> None:
    for m in prange(x.length.size):
        _prior_row(g, bigrams, hebbian, x, x.p[numba.get_thread_id()], np.int64(m))


@_serial
def prior_rows(
    graph: TokenGraph, trust: Array, tokens: Array, n: int, withheld: Withheld | None = None
) -> PriorRows:
    """As `minibrillm.reference.prior_rows`."""
    assert graph.ngrams is not None
    dtype, n_nodes = trust.dtype, graph.n_nodes
    flat, hebbian = _flat(graph.ngrams, dtype), _near(graph)
    bigrams, truth = flat, np.empty(0, np.int64)
    if withheld is not None:
        bigrams = _flat(withheld.bigrams, dtype)
        truth = np.ascontiguousarray(withheld.truth, np.int64).reshape(-1)
    tokens = np.ascontiguousarray(tokens, np.int64)
    contexts = np.empty((*tokens.shape, graph.ngrams.order - 1), np.int64)
    shape = len(tokens), n
    last = slice(tokens.shape[1] - n, None)
    if len(tokens) == 1:
        _find_contexts(flat, tokens[0], contexts[0])
    else:
        _run_contexts(flat, tokens, contexts)
    rows = _Rows(
        np.ascontiguousarray(tokens[:, last]).reshape(-1),
        np.ascontiguousarray(contexts[:, last]).reshape(-1, graph.ngrams.order - 1),
        truth,
        trust,
        _scratch("p", (numba.get_num_threads(), 2, n_nodes), dtype),
        np.empty((math.prod(shape), n_nodes), dtype),
        np.empty((math.prod(shape), n_nodes), dtype),
        np.empty(math.prod(shape), np.int64),
    )
    if len(rows.length) == 1:  # as in generation: nothing to run in parallel, nor to compile for it
        _prior_row(flat, bigrams, hebbian, rows, rows.p[0], 0)
    else:
        _run_prior_rows(flat, bigrams, hebbian, rows)
    log_prior, change = (x.reshape(*shape, n_nodes) for x in (rows.log_prior, rows.change))
    return PriorRows(log_prior, change, rows.length.reshape(shape))


# ---------------------------------------------------------------------------- energies, optimiser


class _Everyone(NamedTuple):
    """Energies of all nodes."""

    indptr: Array
    targets: Array
    sources: Array
    signals: Array
    encoding: Array
    out: Array


@_jit(fastmath=_FLAGS)
def _energies_at(edges: _Edges, x: _Everyone, r: int) -> None:
    """One position."""
    a, encoding = x.signals[r], x.encoding[r]
    n_nodes, d, u = x.out.shape[1], a.size, x.sources[r]
    classes = edges.dendrite_weight.size == 0
    h, common = np.empty(n_nodes * d, a.dtype), np.empty(d, a.dtype)
    _copy_to(common, 0, encoding, 0, d)
    # What the edges share is found once: the class of the shared edge, or the axon's part.
    _add_edge(edges.main_weight, edges.main_bias, 0 if classes else u, a, common)
    for v in range(n_nodes):
        _copy_to(h, v * d, common, 0, d)
    if not classes:
        _add_to(h, 0, edges.dendrite_bias, 0, n_nodes * d)
        _answers(h, h.size, a, 0, edges.dendrite_weight, 0, 1, n_nodes, d)
    for e in range(x.indptr[u], x.indptr[u + 1]):
        answer = h[x.targets[e] * d : (x.targets[e] + 1) * d]
        if classes:
            _copy_to(answer, 0, encoding, 0, d)
            _add_edge(edges.main_weight, edges.main_bias, e + 1, a, answer)
        else:
            _add_edge(edges.private_weight, edges.private_bias, e, a, answer)
    _hear(h, x.out[r])


@_jit(parallel=True)
def _run_energies(edges: _Edges, x: _Everyone) -> None:
    for r in prange(x.sources.size):
        _energies_at(edges, x, np.int64(r))


@_serial
def energies(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int = 0,
) -> Array:
    """As `minibrillm.reference.energies`."""
    n_streams, n, d = incoming.shape
    dtype = incoming.dtype
    width = _width(config, dtype)
    p = position_encoding(config.positions, first + config.first_position, n, d).astype(dtype)
    out = np.empty((n_streams * n, graph.n_nodes), dtype)
    edges = _edges(parameters, config, width)
    work = _Everyone(
        graph.indptr,
        graph.targets,
        np.ascontiguousarray(tokens).reshape(-1),
        _pad(incoming.reshape(-1, d), width),
        _pad(np.tile(p, (n_streams, 1)), width),
        out,
    )
    if len(out) == 1:
        _energies_at(edges, work, 0)
    else:
        _run_energies(edges, work)
    return out.reshape(n_streams, n, graph.n_nodes)


@_jit()  # no re-ordering here: the same number as the textbook, to the last bit
def _add_squares(block: Array, lanes: Array) -> None:
    whole = block.size // SQUARES_LANES
    rows = block[: whole * SQUARES_LANES].reshape(whole, SQUARES_LANES)
    for r in range(whole):
        for j in range(SQUARES_LANES):
            lanes[j] += np.float64(rows[r, j]) * np.float64(rows[r, j])
    rest = block[whole * SQUARES_LANES :]
    for j in range(rest.size):
        lanes[j] += np.float64(rest[j]) * np.float64(rest[j])


@_jit(parallel=True)
def _run_squares(array: Array, lanes: Array) -> None:
    for b in prange(len(lanes)):
        _add_squares(array[b * SQUARES_BLOCK : (b + 1) * SQUARES_BLOCK], lanes[b])


@_serial
def sum_of_squares(array: Array) -> float:
    """As `minibrillm.reference.sum_of_squares`."""
    flat = array.reshape(-1)
    lanes = np.zeros((-(-flat.size // SQUARES_BLOCK), SQUARES_LANES))
    if len(lanes) == 1:
        _add_squares(flat, lanes[0])
    else:
        _run_squares(flat, lanes)
    return math.fsum(lanes.ravel())


_AT_ONCE = 1 << 14  # elements of an array that one thread updates in one go


@_jit(fastmath=_FLAGS)
def _update(
    parameter: Array, gradient: Array, mean: Array, square: Array, average: Array, c: Array
) -> None:
    scale, keep, rate, beta1, beta2, correction, epsilon, fade = c
    for j in range(parameter.size):
        g = gradient[j] * scale
        m = mean[j] + beta1 * (g - mean[j])
        s = square[j] + beta2 * (g * g - square[j])
        p = parameter[j] * keep - rate * m / (np.sqrt(s * correction) + epsilon)
        mean[j], square[j], parameter[j] = m, s, p
        average[j] += fade * (p - average[j])


@_jit(parallel=True)
def _run_update(
    parameter: Array, gradient: Array, mean: Array, square: Array, average: Array, c: Array
) -> None:
    for b in prange((parameter.size + _AT_ONCE - 1) // _AT_ONCE):
        here = slice(b * _AT_ONCE, (b + 1) * _AT_ONCE)
        _update(parameter[here], gradient[here], mean[here], square[here], average[here], c)


@_serial
def adamw(
    parameter: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    average: Array,
    scale: float,
    step: int,
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    average_decay: float,
) -> None:
    """As `minibrillm.reference.adamw`."""
    constants = (
        scale,
        1 - learning_rate * weight_decay,
        learning_rate / (1 - beta1**step),
        1 - beta1,
        1 - beta2,
        1 / (1 - beta2**step),
        epsilon,
        1 - average_decay,
    )
    run = _update if parameter.size <= _AT_ONCE else _run_update
    run(
        *(array.reshape(-1) for array in (parameter, gradient, mean, square, average)),
        np.array(constants, parameter.dtype),
    )
