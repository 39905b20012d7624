"""Multiply-adds against closed forms and torch's own counter."""

from __future__ import annotations

import logging
import math
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_theseus.costs import count_macs
from nas_theseus.costs.operators import FREE, HANDLES
from nas_theseus.errors import CostError
from nas_theseus.values.architecture import Boundary


class Apply(nn.Module):
    """A function as a module, so that a test can write one line."""

    def __init__(self, function, *children: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)


def torch_macs(module: nn.Module, inlet: Boundary) -> int:
    """Half of what torch's dispatcher-level counter sees."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.randn(1, *inlet.shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("padding", [0, 1])
def test_convolution(stride: int, groups: int, padding: int) -> None:
    conv = nn.Conv2d(6, 12, 3, stride=stride, padding=padding, groups=groups)
    height = (9 + 2 * padding - 3) // stride + 1
    width = (7 + 2 * padding - 3) // stride + 1
    expected = height * width * 12 * (6 // groups) * 9
    assert count_macs(conv, Boundary((6, 9, 7))) == expected


def test_other_convolutions() -> None:
    same = nn.Conv2d(4, 8, 3, padding="same", dilation=2)
    assert count_macs(same, Boundary((4, 6, 6))) == 6 * 6 * 8 * 4 * 9
    reflect = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")
    assert count_macs(reflect, Boundary((4, 6, 6))) == 6 * 6 * 8 * 4 * 9
    line = nn.Conv1d(5, 10, 4, stride=2, groups=5)
    assert count_macs(line, Boundary((5, 16))) == 7 * 10 * 1 * 4
    transposed = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    assert count_macs(transposed, Boundary((4, 5, 5))) == 25 * 4 * 3 * 9


def test_linear_bilinear_and_products() -> None:
    assert count_macs(nn.Linear(7, 5), Boundary((7,))) == 35
    assert count_macs(nn.Linear(7, 5, bias=False), Boundary((11, 7))) == 11 * 35
    bilinear = Apply(lambda x, b: b(x, x), nn.Bilinear(7, 7, 3))
    assert count_macs(bilinear, Boundary((7,))) == 3 * 7 * 7 + 3 * 7
    shared = Apply(lambda x: x[0] @ torch.ones(4, 7, 5))  # (11, 7) broadcast over a batch of 4
    assert count_macs(shared, Boundary((11, 7))) == 4 * 11 * 7 * 5
    vector = Apply(lambda x: x @ torch.ones(7))
    assert count_macs(vector, Boundary((11, 7))) == 77
    tensordot = Apply(lambda x: torch.tensordot(x, torch.ones(3, 7, 5), dims=([1, 2], [0, 1])))
    assert count_macs(tensordot, Boundary((3, 7))) == 3 * 7 * 5
    baddbmm = Apply(lambda x: torch.baddbmm(torch.zeros(1, 1, 1), x, x.mT))
    assert count_macs(baddbmm, Boundary((11, 7))) == 11 * 11 * 7
    addbmm = Apply(lambda x: torch.addbmm(torch.zeros(11, 11), x[0], x[0].mT))
    assert count_macs(addbmm, Boundary((2, 11, 7))) == 2 * 11 * 11 * 7


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (4, 1)])
def test_attention_with_other_lengths_widths_and_groups(heads: int, kv_heads: int) -> None:
    def attend(x: Tensor) -> Tensor:
        key, value = torch.zeros(1, kv_heads, 9, 8), torch.zeros(1, kv_heads, 9, 6)
        return F.scaled_dot_product_attention(x, key, value, enable_gqa=heads != kv_heads)

    expected = heads * 5 * 9 * (8 + 6)
    assert count_macs(Apply(attend), Boundary((heads, 5, 8))) == expected


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_counts_all_four_projections(need_weights: bool) -> None:
    attention = nn.MultiheadAttention(24, 4, batch_first=True)
    module = Apply(lambda x, a: a(x, x, x, need_weights=need_weights)[0], attention)
    assert count_macs(module, Boundary((10, 24))) == 4 * 10 * 24 * 24 + 2 * 10 * 10 * 24


@pytest.mark.parametrize("fastpath", [True, False])
def test_encoder_layer_is_the_same_with_the_fast_path_on(fastpath: bool) -> None:
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    layer.requires_grad_(False)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        macs = count_macs(layer, Boundary((10, 24)))
        assert torch.backends.mha.get_fastpath_enabled() is fastpath
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert macs == 10 * (4 * 24 * 24 + 2 * 24 * 48) + 2 * 10 * 10 * 24


@pytest.mark.parametrize("cell,gates", [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_recurrent(cell: type[nn.RNNBase], gates: int, bidirectional: bool, bias: bool) -> None:
    width, hidden, steps, ways = 6, 5, 7, 1 + bidirectional
    layers = {"num_layers": 2, "bidirectional": bidirectional, "bias": bias, "batch_first": True}
    module = Apply(lambda x, r: r(x)[0], cell(width, hidden, **layers))
    first = gates * hidden * (width + hidden)
    second = gates * hidden * (ways * hidden + hidden)
    assert count_macs(module, Boundary((steps, width))) == steps * ways * (first + second)


def test_recurrent_time_first_relu_projection_and_cells() -> None:
    first = Apply(lambda x, r: r(x.transpose(0, 1))[0], nn.RNN(6, 5, nonlinearity="relu"))
    assert count_macs(first, Boundary((7, 6))) == 7 * 5 * 11
    projected = nn.LSTM(6, 5, proj_size=3, batch_first=True)
    module = Apply(lambda x, r: r(x)[0], projected)
    assert count_macs(module, Boundary((7, 6))) == 7 * (4 * 5 * (6 + 3) + 3 * 5)
    assert count_macs(nn.GRUCell(6, 5), Boundary((6,))) == 3 * 5 * 11
    assert count_macs(nn.LSTMCell(6, 5), Boundary((6,))) == 4 * 5 * 11


def test_elementwise_work_normalisation_and_lookups_are_free() -> None:
    norms = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.GELU())
    pools = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1))
    assert count_macs(nn.Sequential(norms, pools), Boundary((4, 8, 8))) == 0
    assert count_macs(nn.RMSNorm(8), Boundary((5, 8))) == 0
    scans = Apply(lambda x: x.cumsum(1) + x.logcumsumexp(1) + x.softmax(-1).cumprod(1))
    assert count_macs(scans, Boundary((5, 8))) == 0
    words = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 2))
    assert count_macs(words, Boundary((5,), integer=True)) == 5 * 12
    assert not FREE & HANDLES.keys()


def test_resnet18_equals_half_of_torch_flops() -> None:
    model = torchvision.models.resnet18(weights=None)
    inlet = Boundary((3, 64, 64))
    assert count_macs(model, inlet) == torch_macs(model, inlet)


def test_vit_b_16_equals_its_closed_form() -> None:
    model = torchvision.models.vit_b_16(weights=None)
    tokens, width, hidden, layers = 14 * 14 + 1, 768, 3072, 12
    layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    expected = 14 * 14 * width * 3 * 16 * 16 + layers * layer + width * 1000
    assert expected == pytest.approx(17.56e9, rel=0.005)
    assert count_macs(model, Boundary((3, 224, 224))) == expected


def test_uncounted_operators_are_refused_by_name() -> None:
    inverse = Apply(lambda x: torch.linalg.inv(x + torch.eye(4)))
    with pytest.raises(CostError, match="aten::linalg_inv"):
        count_macs(inverse, Boundary((4, 4)))
    with pytest.raises(CostError, match="aten::fft_rfft"):
        count_macs(Apply(lambda x: torch.fft.rfft(x).abs()), Boundary((8,)))


def test_python_autograd_functions_are_refused() -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x @ x.mT

    with pytest.raises(CostError, match=r"PythonOp\.Product"):
        count_macs(Apply(Product.apply), Boundary((4, 4)))


def test_scripted_code_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @torch.jit.script
        def twice(x: Tensor) -> Tensor:
            if bool(x.sum() > 0):
                return x @ x
            return x

    with pytest.raises(CostError, match=r"prim::CallFunction.*unscripted"):
        count_macs(Apply(lambda x: twice(x)), Boundary((4, 4)))


def test_work_done_outside_the_trace_is_refused() -> None:
    def aside(x: Tensor, inner: nn.Module) -> Tensor:
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(inner(torch.ones(1, 4)).detach()))
        thread.start()
        thread.join()
        return x + results[0]

    with pytest.raises(CostError, match=r"inner\.0"):
        count_macs(Apply(aside, nn.Linear(4, 4)), Boundary((4,)))
    with pytest.raises(CostError, match=r"inner\.0"):
        count_macs(Apply(lambda x, inner: (inner(x), x * 2)[1], nn.Linear(4, 4)), Boundary((4,)))


def test_submodules_that_do_not_run_cost_nothing() -> None:
    module = Apply(lambda x, used, unused: used(x), nn.Linear(4, 4), nn.Linear(4, 400))
    assert count_macs(module, Boundary((4,))) == 16


def test_a_module_that_does_not_fit_is_named_with_its_inlet() -> None:
    with pytest.raises(CostError, match=r"Linear on \(D\) = \(5\)"):
        count_macs(nn.Linear(4, 4), Boundary((5,)))
    with pytest.raises(CostError, match="cannot be copied"):
        count_macs(Apply(lambda x: x, Locked()), Boundary((5,)))


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("fails", [False, True])
def test_counting_leaves_no_trace(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    frozen = nn.BatchNorm2d(4).eval()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), frozen, nn.Dropout(0.5)).train()
    frozen.eval()
    if fails:
        module.append(Apply(lambda x: torch.fft.fft(x).abs()))
    flags = [child.training for child in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        if fails:
            with pytest.raises(CostError):
                count_macs(module, Boundary((3, 8, 8)))
        else:
            assert count_macs(module, Boundary((3, 8, 8))) == 36 * 4 * 27
    assert [child.training for child in module.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert not caplog.records
    assert not any(c._forward_hooks or c._forward_pre_hooks for c in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_half_precision_tied_and_weight_normed_modules() -> None:
    assert count_macs(nn.Linear(4, 3).bfloat16(), Boundary((4,))) == 12
    tied = nn.Linear(4, 4)
    assert count_macs(nn.Sequential(tied, tied), Boundary((4,))) == 32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.utils.weight_norm(nn.Linear(4, 3))
    normed(torch.ones(1, 4))  # leaves a non-leaf tensor as a plain attribute
    assert count_macs(normed, Boundary((4,))) == 12
    assert math.isfinite(normed(torch.ones(1, 4)).sum().item())
