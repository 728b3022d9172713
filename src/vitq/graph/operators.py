"""The operators that a saved graph may call: a list, so that what torch adds, or keeps for itself, is not among them.

All compute new tensors from tensors and numbers, with a shape that does not hang on values. Left out are random values,
unwritten memory, files, gradients, sparse, nested and quantized tensors, texts, lists, and what trusts its arguments.
"""

import torch

_ELEMENTWISE = """
abs absolute acos acosh add addcdiv addcmul __and__ angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin
asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu
clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fill
fix float_power floor floor_divide fmax fmin fmod frac ge gelu glu greater greater_equal gt hardshrink hardsigmoid
hardswish hardtanh heaviside hypot isfinite isinf isnan isneginf isposinf ldexp le leaky_relu lerp less less_equal
lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit
__lshift__ lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative not_equal __or__ positive pow
prelu rad2deg reciprocal relu relu6 remainder round __rshift__ rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc
sinh softplus softshrink special_erf special_exp2 special_expit special_expm1 special_log1p special_logit special_ndtr
special_round special_xlog1py sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy __xor__
"""

_PRODUCTS = """
addbmm addmm addmv addr baddbmm bilinear bmm cdist conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d
conv_transpose3d _convolution convolution cross dot einsum embedding ger gru gru_cell inner kron linalg_cross
linalg_matmul linalg_vecdot linear lstm lstm_cell matmul mm mv outer rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell
scaled_dot_product_attention tensordot vdot
"""

_NORMS_AND_SUMS = """
all amax amin aminmax any argmax argmin argsort batch_norm cosine_similarity count_nonzero cummax cummin cumprod
cumsum frobenius_norm group_norm instance_norm kthvalue layer_norm linalg_matrix_norm linalg_norm linalg_vector_norm
_log_softmax log_softmax logcumsumexp logsumexp max mean median min msort _native_batch_norm_legit_no_training norm
norm_except_dim nuclear_norm pairwise_distance prod rms_norm _safe_softmax _softmax softmax sort std std_mean sum
sum_to_size topk trace var var_mean _weight_norm
"""

_POOLS = """
adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d avg_pool3d
grid_sampler grid_sampler_2d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
upsample_linear1d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact1d _upsample_nearest_exact2d
"""

_MOVES = """
alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat channel_shuffle chunk
clone col2im column_stack concat concatenate constant_pad_nd contiguous copy detach diag diag_embed diagonal dstack
expand expand_as flatten flip fliplr flipud gather hstack im2col index index_add index_copy index_fill index_put
index_select mH mT masked_scatter matrix_H moveaxis movedim narrow numpy_T pad permute pixel_shuffle pixel_unshuffle
ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
replication_pad3d reshape reshape_as roll rot90 row_stack scatter scatter_add scatter_reduce select select_scatter
slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim tensor_split tile to
_to_copy transpose tril triu type_as unbind unflatten unfold unsafe_chunk _unsafe_index unsafe_split
unsafe_split_with_sizes _unsafe_view unsqueeze view view_as vstack
"""

_MADE = """
arange bucketize cartesian_prod eye full full_like isin linspace logspace meshgrid new_full new_ones new_zeros one_hot
ones ones_like scalar_tensor tril_indices triu_indices zeros zeros_like
"""

_OTHERS = """
complex _conj conj _conj_physical conj_physical fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn
fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn imag linalg_inv linalg_inv_ex matrix_power
polar real resolve_conj resolve_neg view_as_complex view_as_real
"""

_SIZES = "size stride sym_numel sym_size sym_stride"

OPERATORS = frozenset(
    " ".join((_ELEMENTWISE, _PRODUCTS, _NORMS_AND_SUMS, _POOLS, _MOVES, _MADE, _OTHERS, _SIZES)).split()
)
"""Names of ATen operators, without their overloads."""

_TENSORS = ("Tensor", "List[Tensor]")
_UNKNOWN = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_TRUSTING = ("data",)
"""Overloads that take the lengths of packed sequences as they are given."""

_BOUNDED = ("index", "one_hot")
"""Their shapes hang on values for some arguments, which the run on fake values then refuses."""


def is_allowed(overload: torch._ops.OpOverload) -> bool:
    """Tell whether a saved graph may call ``overload``: it is listed, changes nothing and returns tensors or a size."""
    schema = overload._schema
    name = schema.name.removeprefix("aten::")
    if name not in OPERATORS or schema.is_mutable or schema.overload_name in _TRUSTING:
        return False
    returned = [str(value.type) for value in schema.returns]
    sized = name in _SIZES.split() and returned in (["int"], ["SymInt"])
    gives = bool(returned) and all(kind in _TENSORS for kind in returned)
    takes = not any(kind in str(argument.type) for argument in schema.arguments for kind in ("Storage", "Generator"))
    return (sized or gives) and takes and (name in _BOUNDED or not _UNKNOWN.intersection(overload.tags))
