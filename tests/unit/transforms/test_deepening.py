"""Deepened networks and larger kernels against their teachers; zero blocks; refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.networks import ResNet, vision_transformer
from nas_theseus.transforms import deepen, enlarge_kernel, make_identity, zero_initialise

INLET = (1, 16, 16)
PLACES = ["stem", "block1.conv1", "block1", "block3", "head.1"]


def a_resnet() -> nn.Module:
    return ResNet((2, 1), 6)


def a_vit() -> nn.Module:
    return vision_transformer(16, 4, 1, depth=2, heads=4, width=16, mlp=24)[0]


@pytest.mark.parametrize("method", ["r2deeper", "zero", "net2deeper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_function_stays(method, dtype, trained, difference) -> None:
    teacher = trained(a_resnet()).to(dtype)
    student = teacher
    for seed, after in enumerate(PLACES):
        student = deepen(student, after, method=method, inlet=INLET, seed=seed)
    x = torch.randn(3, *INLET, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    assert difference(teacher, student, x) <= tolerance
    assert difference(teacher, student, x, train=True) <= tolerance
    assert len(list(student.parameters())) > len(list(teacher.parameters()))
    after = list(student.parameters())
    for parameter in teacher.parameters():
        same_shape = [other for other in after if other.shape == parameter.shape]
        assert any(torch.equal(parameter, other) for other in same_shape)


@pytest.mark.parametrize("method", ["r2deeper", "zero"])
def test_transformers_and_post_activation(method, trained, difference) -> None:
    vit = trained(a_vit()).double()
    x = torch.randn(3, *INLET, dtype=torch.double)
    student = deepen(vit, "encoder.layers.encoder_layer_0", method=method, inlet=INLET)
    assert difference(vit, student, x) <= 1e-10
    net = trained(a_resnet()).double()
    student = deepen(net, "block2", method=method, activation=nn.ReLU(), inlet=INLET)
    assert difference(net, student, x) <= 1e-10
    assert isinstance(student.block2[1].activation, nn.ReLU)


def test_random_padding_changes_the_function(trained, difference) -> None:
    teacher = trained(a_resnet())
    student = deepen(teacher, "block1", method="random-pad", inlet=INLET)
    assert difference(teacher, student, torch.randn(3, *INLET)) > 1e-3


@pytest.mark.parametrize(
    ("method", "learns"), [("r2deeper", (True, True)), ("zero", (False, True))]
)
def test_which_new_layers_learn_at_the_first_step(method, learns, trained) -> None:
    student = deepen(trained(a_resnet()), "block1", method=method, inlet=INLET)
    student(torch.randn(4, *INLET)).square().sum().backward()
    first, _, _, last = student.block1[1].block
    assert tuple(bool((layer.weight.grad != 0).any()) for layer in (first, last)) == learns


def test_new_weights_are_as_large_as_those_of_the_kernel_before(trained) -> None:
    teacher = trained(ResNet((1,), 32))
    expected = teacher.block1.conv2.weight.std()
    for scale in (1.0, 2.0):
        student = deepen(teacher, "block1", inlet=INLET, scale=scale)
        for layer in (student.block1[1].block[0], student.block1[1].block[3]):
            torch.testing.assert_close(layer.weight.std(), scale * expected, rtol=0.03, atol=0)


def test_a_given_block_keeps_its_weights_where_it_may(difference, trained) -> None:
    teacher = trained(a_resnet())
    block = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.GELU())
    first, last = block[0].weight.detach().clone(), block[2].weight.detach().clone()
    student = deepen(teacher, "block1", block, inlet=INLET)
    assert difference(teacher, student, torch.randn(2, *INLET)) <= 1e-5
    assert torch.equal(block[0].weight[:4], first[:4])
    assert torch.equal(block[0].weight[4:], first[:4])
    assert torch.equal(block[2].weight[:, 4:], -last[:, :4])


def test_an_identity_layer_with_batch_norm_takes_the_sample_s_statistics(
    trained, difference
) -> None:
    teacher, x = trained(a_resnet()).double(), torch.randn(8, *INLET, dtype=torch.double)
    block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()).double()
    student = deepen(teacher, "stem", block, "net2deeper", inlet=INLET, sample=x)
    assert difference(teacher, student, torch.randn(3, *INLET, dtype=torch.double)) <= 1e-10
    # On the sample itself, and with the statistics that the teacher has in eval mode there, also
    # in train mode.
    block.train()
    with torch.no_grad():
        features = teacher.eval().stem(x)
        torch.testing.assert_close(block(features), features)
        assert not torch.allclose(block(features[:2]), features[:2], atol=1e-3)


ZERO_BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU()),
    "tanh, norm inside": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 4, 1), nn.GELU()
    ),
    "depthwise between": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),        nn.Conv2d(8, 4, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO_BLOCKS)
def test_a_zero_block_gives_zero_in_both_modes_and_trains(name, trained) -> None:
    block, x = trained(ZERO_BLOCKS[name]()).double(), torch.randn(3, 4, 5, 5, dtype=torch.double)
    zero_initialise(block, x)
    for mode in (True, False):
        assert block.train(mode)(x).abs().max() <= 1e-12
    block(x).sum().backward()
    layers = [layer for layer in block if isinstance(layer, nn.Conv2d)]
    if name != "ReLU":  # whose gradient at 0 is 0 behind the last layer
        assert all((layer.weight.grad != 0).any() for layer in (layers[0], layers[-1]))


def conv_then(*behind: nn.Module, width: int = 6) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(6, width, 1), nn.ReLU(), nn.Conv2d(width, 6, 1), *behind)


REFUSALS = {
    "odd volume": (conv_then(width=5), "r2deeper", "two equal halves"),
    "norm behind": (conv_then(nn.BatchNorm2d(6)), "r2deeper", "normalises after the last layer"),
    "norm behind, zero": (conv_then(nn.BatchNorm2d(6)), "zero", "normalises after the last layer"),
    "never zero": (conv_then(nn.Sigmoid()), "r2deeper", "not 0 at 0"),
    "one layer": (lambda: nn.Conv2d(6, 6, 1), "r2deeper", "is the module's input"),
    "grouped last": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1, groups=3)), "r2deeper",
        "3 groups",
    ),
    "other shape": (lambda: nn.Conv2d(6, 5, 1), "r2deeper", "must keep the shape"),
    "other inlet": (lambda: nn.Conv2d(5, 6, 1), "r2deeper", "fails on its inputs"),
    "not idempotent": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU()), "net2deeper", "GELU is not",
    ),
    "even kernel": (
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 6, 2)), "net2deeper",
        "not ZeroPad2d|odd kernels",
    ),
    "depthwise identity": (
        lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), "net2deeper", "needs one group",
    ),
    "norm without a sample": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)), "net2deeper", "pass `sample`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_blocks_that_cannot_be_put_in_are_refused(name) -> None:
    make, method, match = REFUSALS[name]
    model = a_resnet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransformError, match=match):
        deepen(model, "block1", make(), method, inlet=INLET, in_place=True)
    assert before.keys() == model.state_dict().keys()


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)))


def test_places_that_do_not_allow_it_are_refused() -> None:
    model = a_resnet()
    with pytest.raises(TransformError, match="no submodule 'blok'"):
        deepen(model, "blok", inlet=INLET)
    with pytest.raises(TransformError, match="available: r2deeper"):
        deepen(model, "block1", method="deeper", inlet=INLET)
    with pytest.raises(TransformError, match="they range from -inf"):
        deepen(model, "block1.norm1", activation=nn.ReLU(), inlet=INLET)
    with pytest.raises(TransformError, match="idempotent"):
        deepen(model, "block1", activation=nn.GELU(), inlet=INLET)
    with pytest.raises(TransformError, match="GELU is not"):
        deepen(Gelu(), "first", method="net2deeper", inlet=(4,))
    with pytest.raises(TransformError, match="batch norms and activations, not LayerNorm"):
        make_identity(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), None)


@pytest.mark.parametrize(
    ("make", "kernel"),
    [
        (lambda: nn.Conv2d(2, 3, 3, padding=1), 5),
        (lambda: nn.Conv2d(2, 4, 1, groups=2, stride=2), (3, 7)),
        (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (3, 5)),
        (lambda: nn.Conv2d(2, 3, 3, padding="valid"), 5),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 5),
        (lambda: nn.Conv2d(2, 3, 2, padding=1), (4, 2)),
    ],
)
def test_a_larger_kernel_computes_the_same_and_learns_at_its_rim(make, kernel, difference) -> None:
    teacher = nn.Sequential(make(), nn.ReLU()).double()
    student = enlarge_kernel(teacher, "0", kernel, inlet=(2, 9, 9))
    x = torch.randn(3, 2, 9, 9, dtype=torch.double)
    assert difference(teacher, student, x) <= 1e-10
    assert student[0].weight.shape[2:] == student[0].kernel_size != teacher[0].kernel_size
    student(x).sum().backward()
    assert (student[0].weight.grad[student[0].weight == 0] != 0).any()


def test_kernels_that_cannot_grow_are_refused() -> None:
    model = a_resnet()
    for kernel in (3, 1, 4, (5, 4)):
        with pytest.raises(TransformError, match="must grow by an even number"):
            enlarge_kernel(model, "block1.conv1", kernel, inlet=INLET)
    with pytest.raises(TransformError, match="not a convolution"):
        enlarge_kernel(model, "head.2", 3, inlet=INLET)
