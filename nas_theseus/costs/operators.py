"""Multiply-adds of each traced operator, and the operators that count as 0.

A multiply-add (MAC) is one product summed into a linear map or an attention product. Everything
else counts 0, whether fused or written out: normalisation (batch norm folds into its neighbour at
inference, and a hand-written RMS norm consists of element-wise operators anyway), activations,
softmax, pooling, resampling, biases, gates of recurrent cells, lookups. Counts therefore equal half
of those of torch's FlopCounterMode for every operator that it supports. A map written as
``(x * weight).sum()`` counts 0: write it as a linear map to have it counted.

`FREE` is complete: `count_macs` refuses any operator that is neither in it, nor in `HANDLES`, nor
in fvcore's own list of shape and copy operators, and names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from nas_theseus.costs.contraction import einsum_macs
from nas_theseus.errors import CostError

# torch._C.Value has no public type; a handle receives the operator's inputs and outputs.
Handle: TypeAlias = Callable[[list[Any], list[Any]], int]


def _shape(value: Any) -> list[int]:
    """Sizes of a traced tensor.

    Raises:
        CostError: the trace does not have them.
    """
    if not value.isCompleteTensor():
        raise CostError(
            f"the trace does not know the shape of an input of {value.node().kind()}; "
            "give the module fixed shapes"
        )
    return list(value.type().sizes())


def _product(left: int) -> Handle:
    """Matrix product of any rank: each output element sums over the left operand's last axis."""

    def macs(inputs: list[Any], outputs: list[Any]) -> int:
        return math.prod(_shape(outputs[0])) * _shape(inputs[left])[-1]

    return macs


def _summed_product(left: int) -> Handle:
    """Batch of products summed into one matrix (addbmm): the batch is contracted as well."""

    def macs(inputs: list[Any], outputs: list[Any]) -> int:
        batch, _, inner = _shape(inputs[left])
        return math.prod(_shape(outputs[0])) * batch * inner

    return macs


def _tensordot(inputs: list[Any], outputs: list[Any]) -> int:
    # With M kept left, K contracted and N kept right the sizes are MK, KN and MN.
    sizes = (math.prod(_shape(value)) for value in (inputs[0], inputs[1], outputs[0]))
    return math.isqrt(math.prod(sizes))


def _bilinear(inputs: list[Any], outputs: list[Any]) -> int:
    """x1 W x2 for W (O, I1, I2): first I1 is contracted, then I2."""
    _, first, second = _shape(inputs[2])
    return math.prod(_shape(outputs[0])) * (first + 1) * second


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """Every weight is applied at every position: of the output, or of the input if transposed.

    Positions in the padding count, as usual. The weight is (O, I / groups, *kernel), or
    (I, O / groups, *kernel) if transposed; in both, the axes from 1 on apply to one element.
    """
    transposed = len(inputs) > 6 and inputs[6].toIValue() is True
    positions = _shape(inputs[0]) if transposed else _shape(outputs[0])
    return math.prod(positions) * math.prod(_shape(inputs[1])[1:])


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Q Kᵀ and its product with V, in full: a causal mask does not reduce the count.

    Heads are those of the queries, so grouped-query attention counts each shared key once per
    query head. Widths of keys and values and the two lengths may differ.
    """
    *_, kv_length, value_width = _shape(inputs[2])
    *batch, length, _ = _shape(outputs[0])
    key_width = _shape(inputs[0])[-1]
    return math.prod(batch) * length * kv_length * (key_width + value_width)


def _recurrent(inputs: list[Any], outputs: list[Any]) -> int:
    """GRU, LSTM and plain RNN: each step multiplies by every weight matrix once.

    The matrices of all layers, directions and projections are in the last list; biases are
    vectors. The input is (steps, batch, D), (batch, steps, D) or packed (total steps, D).
    """
    lists = [value.node() for value in inputs if value.node().kind() == "prim::ListConstruct"]
    matrices = [shape for value in lists[-1].inputs() if len(shape := _shape(value)) == 2]
    return math.prod(_shape(inputs[0])[:-1]) * sum(map(math.prod, matrices))


def _recurrent_cell(inputs: list[Any], outputs: list[Any]) -> int:
    batch = math.prod(_shape(inputs[0])[:-1])
    return batch * sum(math.prod(_shape(weight)) for weight in inputs[2:4])


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    path = inputs[2].toIValue() if len(inputs) > 2 else None
    return einsum_macs(str(inputs[0].toIValue()), shapes, path)


def _refuse(kind: str) -> Handle:
    def macs(inputs: list[Any], outputs: list[Any]) -> NoReturn:
        raise CostError(
            f"{kind}: scripted code hides its operators from the trace, so they cannot be "
            "counted; use the module unscripted"
        )

    return macs


HANDLES: dict[str, Handle] = {
    **dict.fromkeys(
        (
            "aten::linear",
            "aten::matmul",
            "aten::linalg_matmul",
            "aten::mm",
            "aten::bmm",
        ),
        _product(0),
    ),
    **dict.fromkeys(("aten::mv", "aten::dot", "aten::vdot", "aten::inner"), _product(0)),
    **{f"aten::{name}": _product(1) for name in ("addmm", "addmm_", "addmv", "addmv_")},
    **{f"aten::{name}": _product(1) for name in ("baddbmm", "baddbmm_")},
    **{f"aten::{name}": _summed_product(1) for name in ("addbmm", "addbmm_")},
    "aten::tensordot": _tensordot,
    "aten::bilinear": _bilinear,
    "aten::einsum": _einsum,
    **dict.fromkeys(("aten::_convolution", "aten::_convolution_mode"), _convolution),
    "aten::scaled_dot_product_attention": _attention,
    **{f"aten::{name}": _recurrent for name in ("gru", "lstm", "rnn_tanh", "rnn_relu")},
    **{f"aten::{name}_cell": _recurrent_cell for name in ("gru", "lstm", "rnn_tanh", "rnn_relu")},
    # fvcore skips most prim:: operators, and these may contain any number of others.
    **{
        f"prim::{kind}": _refuse(f"prim::{kind}")
        for kind in ("If", "Loop", "CallMethod", "CallFunction")
    },
}


_FREE_NAMES = {
    "normalisation": """batch_norm layer_norm group_norm instance_norm rms_norm
        local_response_norm _weight_norm normalize linalg_vector_norm norm renorm""",
    "activation": """relu relu6 leaky_relu prelu rrelu elu selu celu gelu glu silu mish tanh
        sigmoid hardtanh hardsigmoid hardswish hardshrink softshrink softplus softsign
        log_sigmoid threshold softmax _softmax log_softmax softmin gumbel_softmax""",
    "arithmetic": """add sub rsub mul div true_divide floor_divide remainder fmod neg abs sign
        sgn reciprocal sqrt rsqrt square pow float_power exp exp2 expm1 log log2 log10 log1p
        logaddexp logaddexp2 sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh sinc
        erf erfc erfinv floor ceil round trunc frac clamp clamp_min clamp_max clip lerp addcmul
        addcdiv outer ger kron cross heaviside nan_to_num hypot maximum minimum fmax fmin
        xlogy logit deg2rad rad2deg""",
    "comparison": """eq ne lt le gt ge isnan isinf isfinite isclose where masked_fill
        masked_scatter masked_select logical_and logical_or logical_not logical_xor bitwise_and
        bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__ __lshift__ __rshift__
        is_nonzero Bool Float""",
    "reduction": """sum nansum mean nanmean median std var std_mean var_mean prod max min amax
        amin aminmax argmax argmin logsumexp any all cumsum cumprod logcumsumexp cummax cummin
        count_nonzero topk sort argsort kthvalue unique_consecutive bincount histc diff
        searchsorted bucketize""",
    "pooling": """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
        max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        lp_pool1d lp_pool2d fractional_max_pool2d max_unpool2d""",
    "resampling": """upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
        upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler
        affine_grid_generator""",
    "padding": """pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d""",
    "lookup": """embedding embedding_bag one_hot index index_select index_put index_add
        index_copy index_fill gather scatter scatter_add scatter_reduce take take_along_dim
        diagonal diag diag_embed tril triu""",
    "shape": """reshape reshape_as view view_as expand expand_as flatten unflatten squeeze
        unsqueeze permute transpose t mT numpy_T swapaxes swapdims movedim moveaxis cat concat
        concatenate stack hstack vstack dstack chunk unsafe_chunk split unsafe_split
        split_with_sizes unsafe_split_with_sizes tensor_split hsplit vsplit unbind narrow select
        slice repeat repeat_interleave tile roll flip fliplr flipud rot90 broadcast_to
        broadcast_tensors unfold as_strided im2col col2im channel_shuffle native_channel_shuffle
        pixel_shuffle pixel_unshuffle meshgrid atleast_1d atleast_2d atleast_3d ravel
        view_as_complex view_as_real real imag""",
    "making and moving": """zeros ones full empty arange linspace eye rand randn randint
        randperm zeros_like ones_like full_like empty_like rand_like randn_like new_zeros
        new_ones new_full new_empty normal uniform bernoulli multinomial fill zero copy clone
        contiguous detach alias lift_fresh lift to type_as scalar_tensor tensor size numel dim
        len Int ScalarImplicit IntImplicit FloatImplicit item dropout feature_dropout
        alpha_dropout feature_alpha_dropout nonzero nonzero_numpy _shape_as_tensor
        warn_once""",
}
"""Operators without a multiply-add of a linear map, by kind; each with its in-place form."""

FREE: frozenset[str] = frozenset(
    f"aten::{name}{suffix}"
    for names in _FREE_NAMES.values()
    for name in names.split()
    for suffix in ("", "_")
)
