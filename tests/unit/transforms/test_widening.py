"""Widened networks against their teachers; what cannot be widened is refused untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.networks import ResNet, vision_transformer
from nas_theseus.transforms import narrow, widen
from nas_theseus.values.architecture import Boundary

PRESERVING = ["r2wider", "net2wider", "netmorph", "netmorph-reverse"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Chain(nn.Sequential):
    """Pooling, then flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, stride=2), nn.PReLU(8), nn.Flatten(), nn.Linear(72, 10), nn.Tanh(),
            nn.Linear(10, 5),
        )  # fmt: skip


class MBConv(nn.Module):
    """EfficientNet's block: expansion, depthwise with two filters a channel, gate, projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand, self.norm1 = nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.norm2 = nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.project = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.norm1(self.expand(x)))
        y = F.silu(self.norm2(self.depthwise(y)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3))))))
        y = self.project(y * gate.view(gate.shape[0], -1, 1, 1))
        return (x + y).mean((2, 3))


class Grouped(nn.Module):
    """A grouped convolution, and a concatenation of two volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.other = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat([F.relu(self.other(x)), F.relu(self.grouped(F.relu(self.first(x))))], 1)
        return self.last(found)


class GroupedSkip(nn.Module):
    """A grouped convolution that reads and writes the same stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x + self.grouped(F.relu(x)))


class GatedTokens(nn.Module):
    """Tokens with a gated MLP, chunks and a mean; channels move to the last axis and back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, 6, 1)
        self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).transpose(1, 2)
        hidden = F.silu(self.gate(tokens)) * self.up(tokens) * self.scale
        first, second = hidden.chunk(2, dim=1)
        return self.down(torch.cat([first, second], 1)).mean(1)


class UpDown(nn.Sequential):
    """A transposed convolution and one-dimensional pooling."""

    def __init__(self) -> None:
        super().__init__(
            nn.ConvTranspose1d(3, 6, 3, stride=2), nn.InstanceNorm1d(6, affine=True), nn.ELU(),
            nn.AvgPool1d(2), nn.ConvTranspose1d(6, 4, 3),
        )  # fmt: skip


def a_resnet() -> nn.Module:
    return ResNet((2, 1), 8)


def a_vit() -> nn.Module:
    network, _ = vision_transformer(16, 4, 1, depth=2, heads=4, width=16, mlp=24)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


# Network, inlet, layer, wider; whether several layers write the volume by addition.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int, bool]] = {
    "hidden of a residual block": (a_resnet, (1, 16, 16), "block1.conv1", 12, False),
    "stream behind identity skips": (a_resnet, (1, 16, 16), "stem.0", 14, True),
    "stream behind a projection": (a_resnet, (1, 16, 16), "block3.skip.0", 20, True),
    "bottleneck": (
        lambda: ResNet((1, 1), 4, bottleneck=True), (1, 16, 16), "block2.conv2", 14, False,
    ),
    "pooling": (Chain, (3, 16, 16), "0", 10, False),
    "flatten into a linear layer": (Chain, (3, 16, 16), "4", 14, False),
    "linear": (Chain, (3, 16, 16), "7", 12, False),
    "expansion, depthwise, gate": (MBConv, (3, 8, 8), "expand", 12, False),
    "named by its depthwise layer": (MBConv, (3, 8, 8), "depthwise", 12, False),
    "read by groups": (Grouped, (3, 6, 6), "first", 16, False),
    "written by groups, concatenated": (Grouped, (3, 6, 6), "grouped", 20, False),
    "read and written by groups": (GroupedSkip, (3, 6, 6), "stem", 16, True),
    "two gates, a scale, chunks": (GatedTokens, (3, 6), "up", 10, False),
    "written by Conv1d, read as tokens": (GatedTokens, (3, 6), "embed", 10, False),
    "transposed": (UpDown, (3, 9), "0", 10, False),
    "MLP of a transformer": (a_vit, (1, 16, 16), "encoder.layers.encoder_layer_1.mlp.0", 30, False),
    "heads of an attention": (
        a_vit, (1, 16, 16), "encoder.layers.encoder_layer_0.self_attention", 6, False,
    ),
}  # fmt: skip
case = pytest.mark.parametrize("name", CASES)


@case
@pytest.mark.parametrize("method", PRESERVING)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_function_stays(name, method, dtype, trained, difference) -> None:
    make, inlet, layer, channels, joined = CASES[name]
    teacher = trained(make()).to(dtype)
    x = torch.randn(3, *inlet, dtype=dtype)
    if joined and method == "net2wider":
        with pytest.raises(TransformError, match="residual connection"):
            widen(teacher, layer, channels, method, inlet=inlet)
        return
    student = widen(teacher, layer, channels, method, inlet=inlet)
    assert sum(p.numel() for p in student.parameters()) > sum(
        p.numel() for p in teacher.parameters()
    )
    assert difference(teacher, student, x) <= TOLERANCE[dtype]
    assert difference(teacher, student, x, train=True) <= TOLERANCE[dtype]


@case
def test_random_padding_keeps_shapes_only(name, trained, difference) -> None:
    make, inlet, layer, channels, _ = CASES[name]
    teacher = trained(make())
    student = widen(teacher, layer, channels, "random-pad", inlet=inlet)
    assert difference(teacher, student, torch.randn(3, *inlet)) > 1e-4


@case
@pytest.mark.parametrize("method", [*PRESERVING, "random-pad"])
def test_existing_parameters_stay_but_in_net2wider(name, method, trained) -> None:
    make, inlet, layer, channels, joined = CASES[name]
    if joined and method == "net2wider":
        return
    teacher = trained(make())
    student = widen(teacher, layer, channels, method, inlet=inlet)
    after = dict(student.named_parameters())
    kept = all(
        set(before.flatten().tolist()) <= set(after[name].flatten().tolist())
        for name, before in teacher.named_parameters()
    )
    assert kept == (method != "net2wider")


@pytest.mark.parametrize("name", ["layer1.0.conv1", "conv1", "layer3.0.conv2"])
@pytest.mark.parametrize("method", ["r2wider", "netmorph"])
def test_torchvision_resnet18(name, method, trained, difference) -> None:
    teacher = trained(torchvision.models.resnet18(num_classes=10))
    width = teacher.get_submodule(name).out_channels
    student = widen(teacher, name, width + 6, method, inlet=(3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    assert difference(teacher, student, x) <= 1e-5
    teacher, student = teacher.double(), student.double()
    assert difference(teacher, student, x.double()) <= 1e-10


@pytest.mark.parametrize("method", PRESERVING)
@pytest.mark.parametrize(("layer", "channels"), [("mlp.c_fc", 80), ("attn", 6)])
def test_gpt2_from_hugging_face(layer, channels, method) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    teacher = transformers.GPT2LMHeadModel(config).double().eval()
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    inlet = Boundary((8,), integer=True)
    student = widen(teacher, f"transformer.h.1.{layer}", channels, method, inlet=inlet)
    ids = torch.randint(20, (3, 8))
    expected, found = teacher(ids).logits, student(ids).logits
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("method", PRESERVING)
def test_heads_of_timm(method, difference) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    teacher = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=4)
    student = widen(teacher, "blocks.0.attn", 5, method, inlet=(3, 32, 32))
    assert student.get_submodule("blocks.0.attn.qkv").out_features == 3 * 5 * 64
    assert difference(teacher, student, torch.randn(2, 3, 32, 32)) <= 1e-5


def test_blocks_that_run_whole_are_looked_into(difference) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="it is not installed")
    teacher = package.EfficientNet.from_name("efficientnet-lite0").double()
    student = widen(teacher, "_blocks.3._expand_conv", 150, inlet=(3, 32, 32))
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    assert difference(teacher, student, x) <= 1e-10
    with pytest.raises(TransformError, match="MBConvBlock"):
        widen(teacher, "_conv_stem", 40, inlet=(3, 32, 32))


@pytest.mark.parametrize("method", ["r2wider", "netmorph", "netmorph-reverse"])
def test_widening_again_and_again(method, trained, difference) -> None:
    teacher = trained(ResNet((2, 2), 4)).double()
    student = teacher
    steps = [("stem.0", 8), ("block1.conv1", 6), ("block3.skip.0", 10), ("stem.0", 12),
             ("block4.conv1", 16), ("block3.conv2", 16), ("block1.conv1", 10)]  # fmt: skip
    for seed, (layer, channels) in enumerate(steps):
        student = widen(student, layer, channels, method, inlet=(1, 16, 16), seed=seed)
    x = torch.randn(3, 1, 16, 16, dtype=torch.double)
    assert difference(teacher, student, x) <= 1e-10
    assert difference(teacher, student, x, train=True) <= 1e-10
    assert student.get_submodule("block2.conv1").in_channels == 12
    assert student.get_submodule("head.2").in_features == 16


GRADIENTS = {
    "r2wider": (True, True), "net2wider": (True, True), "netmorph": (False, True),
    "netmorph-reverse": (True, False), "random-pad": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("method", GRADIENTS)
def test_which_new_parameters_learn_at_the_first_step(method, trained) -> None:
    teacher = trained(Chain())
    # A zero pre-activation has no gradient through ReLU; through tanh it has.
    student = widen(teacher, "7", 14, method, inlet=(3, 16, 16))
    student(torch.randn(8, 3, 16, 16)).square().sum().backward()
    writing = student[7].weight.grad[10:].abs().sum(1)
    reading = student[9].weight.grad[:, 10:].abs().sum(0)
    assert ((writing > 0).all(), (reading > 0).all()) == GRADIENTS[method]


def test_pairs_part_at_the_first_step_and_copies_never_without_noise(trained) -> None:
    def after_steps(method: str, noise: float = 0.0) -> Tensor:
        student = widen(trained(Chain()), "7", 12, method, inlet=(3, 16, 16), noise=noise)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            student(torch.ones(4, 3, 16, 16)).square().sum().backward()
            optimizer.step()
        return student[7].weight

    weight = after_steps("r2wider")
    assert weight[10].sub(weight[11]).abs().max() > 1e-4
    weight = after_steps("net2wider")
    nearest = [weight[10].sub(row).abs().max() for row in weight[:10]]
    assert min(nearest) < 1e-6
    weight = after_steps("net2wider", 0.1)
    nearest = [weight[10].sub(row).abs().max() for row in weight[:10]]
    assert min(nearest) > 1e-4


def test_free_weights_are_as_large_as_their_kernel_s_and_follow_scale_and_seed() -> None:
    teacher = ResNet((1,), 64)

    def new(scale: float, seed: int = 0) -> Tensor:
        student = widen(teacher, "block1.conv1", 128, inlet=(1, 16, 16), scale=scale, seed=seed)
        return student.get_submodule("block1.conv1").weight[64:]

    expected = teacher.block1.conv1.weight.std()
    torch.testing.assert_close(new(1.0).std(), expected, rtol=0.02, atol=0)
    torch.testing.assert_close(new(3.0).std(), 3 * expected, rtol=0.02, atol=0)
    assert new(1.0).abs().max() <= 3**0.5 * expected * 1.001  # uniform
    assert torch.equal(new(1.0), new(1.0)) and not torch.equal(new(1.0), new(1.0, seed=1))


def test_noise_moves_the_function_a_little(trained, difference) -> None:
    teacher = trained(Chain())
    student = widen(teacher, "4", 14, inlet=(3, 16, 16), noise=0.01)
    assert 1e-6 < difference(teacher, student, torch.randn(3, 3, 16, 16)) < 0.1


def test_a_copy_is_changed_unless_asked(trained, difference) -> None:
    teacher = trained(Chain())
    before = copy.deepcopy(teacher)
    student = widen(teacher, "0", 10, inlet=(3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert student is not teacher and teacher[0].out_channels == 6
    assert widen(teacher, "0", 10, inlet=(3, 16, 16), in_place=True) is teacher
    assert teacher[0].out_channels == 10 and teacher[1].num_features == 10
    assert difference(before, teacher, x) <= 1e-5
    assert all(
        torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True)
    )


class Odd(nn.Module):
    """A network for one refusal: what comes behind its first layer is given."""

    def __init__(self, behind: Callable[[Tensor], Tensor], last: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.behind = nn.Conv2d(2, 4, 1), behind
        self.last = last or nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.behind(self.conv(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.relu(self.a(x))))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(torch.relu(self.a(x))))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def parametrized() -> nn.Module:
    model = Chain()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


MAP, IMAGE, VECTOR = (2, 4, 4), (3, 16, 16), (4,)
REFUSALS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int, str, str]] = {
    "no layer": (Chain, IMAGE, "99", 10, "r2wider", "no submodule '99'"),
    "unknown widening method": (Chain, IMAGE, "0", 10, "r3", "available: r2wider"),
    "other kind": (Chain, IMAGE, "2", 10, "r2wider", "ReLU; name a convolution"),
    "not wider": (Chain, IMAGE, "0", 6, "r2wider", "already has 6 channels"),
    "odd": (Chain, IMAGE, "0", 9, "r2wider", "equal pairs.*use 10"),
    "groups": (Grouped, (3, 6, 6), "first", 12, "r2wider", "multiple of 8"),
    "wrong inlet": (Chain, (1, 16, 16), "0", 10, "r2wider", "cannot be run on an input"),
    "output": (Chain, IMAGE, "9", 8, "r2wider", "is the module's output"),
    "input": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 2, 1)), IMAGE, "0",
              6, "r2wider", "is the module's input"),
    "layer norm": (normed, VECTOR, "0", 6, "r2wider", "LayerNorm"),
    "layer-normed stream": (a_vit, (1, 16, 16), "conv_proj", 20, "r2wider", "LayerNorm"),
    "group norm": (lambda: Odd(nn.GroupNorm(2, 4)), MAP, "conv", 6, "r2wider", "GroupNorm"),
    "softmax": (lambda: Odd(lambda x: x.softmax(1)), MAP, "conv", 6, "r2wider", "softmax.*mixes"),
    "sum": (lambda: Odd(lambda x: x.sum(1, keepdim=True), nn.Conv2d(1, 3, 1)), MAP, "conv", 6,
            "r2wider", "sums over"),
    "half of the channels": (lambda: Odd(lambda x: x[:, :2], nn.Conv2d(2, 3, 1)), MAP, "conv", 6,
                             "r2wider", "only some of the volume's channels"),
    "other order": (lambda: Odd(lambda x: x + x.flip(1)), MAP, "conv", 6, "r2wider", "flip"),
    "two orders": (lambda: Odd(lambda x: x + torch.cat([x[:, 2:], x[:, :2]], 1)), MAP, "conv", 6,
                   "r2wider", "different orders"),
    "width as a number": (lambda: Odd(lambda x: x.view(-1, 4, 4, 4)), MAP, "conv", 8, "r2wider",
                          "width as a number"),
    "sigmoid and zeros": (lambda: Odd(torch.sigmoid), MAP, "conv", 6, "netmorph-reverse",
                          "not 0 at 0"),
    "tied": (Tied, VECTOR, "a", 6, "r2wider", "a.weight, b.weight share"),
    "run twice": (Twice, VECTOR, "a", 6, "r2wider", "runs 2 times"),
    "parametrized": (parametrized, IMAGE, "0", 10, "r2wider", "remove the parametrization"),
    "residual": (a_resnet, (1, 16, 16), "stem.0", 12, "net2wider", "residual connection"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_widened_is_refused_before_a_weight_is_touched(name) -> None:
    make, inlet, layer, channels, method, match = REFUSALS[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransformError, match=match):
        widen(model, layer, channels, method, inlet=inlet, in_place=True)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


# Where one layer reads and writes a stream, new filters of it read the new channels.
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"read and written by groups"}))
def test_narrowing_a_widened_network_finds_the_old_channels(name, trained, difference) -> None:
    make, inlet, layer, channels, _ = CASES[name]
    teacher = trained(make()).double()
    x = torch.randn(4, *inlet, dtype=torch.double)
    # New channels that nothing reads are worth nothing.
    student = widen(teacher, layer, channels, "netmorph", inlet=inlet)
    module = teacher.get_submodule(layer)
    before = {"depthwise": 8}.get(layer) or getattr(module, "num_heads", None) or len(module.weight)
    if isinstance(module, nn.ConvTranspose1d):
        before = module.out_channels
    again = narrow(student, layer, before, sample=x)
    assert [p.shape for p in again.parameters()] == [p.shape for p in teacher.parameters()]
    assert difference(teacher, again, x) <= 1e-10
    fewer = narrow(teacher, layer, 8 if before == 12 else before // 2, sample=x)
    assert difference(teacher, fewer, x) > 1e-6


def test_narrowing_refuses_what_it_cannot_keep(trained) -> None:
    model = Grouped()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(TransformError, match="narrowed to 1 to 7"):
        narrow(model, "first", 8, sample=x)
    with pytest.raises(TransformError, match="multiple of 4"):
        narrow(model, "first", 6, sample=x)
