"""Random residual networks, transformed several times in a row: the function stays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.transforms import deepen, enlarge_kernel, widen
from nas_theseus.transforms.layers import linear_map
from nas_theseus.transforms.widening import find_volume

INLET = (2, 8, 8)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d, "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
    "none": lambda _: nn.Identity(),
}  # fmt: skip
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "prelu": nn.PReLU}
POOLS = {"none": nn.Identity, "max": lambda: nn.MaxPool2d(2), "mean": lambda: nn.AvgPool2d(2)}


class Block(nn.Module):
    """Two convolutions, the second perhaps grouped, with or without a skip."""

    def __init__(
        self, inlet: int, outlet: int, norm: str, activation: str, skip: bool, groups: int
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(inlet, 4, 3, padding=1)
        self.norm, self.act = NORMS[norm](4), ACTIVATIONS[activation]()
        self.conv2 = nn.Conv2d(4, outlet, 3, padding=1, groups=groups)
        self.skip: nn.Module | None = None
        if skip:
            self.skip = nn.Identity() if inlet == outlet else nn.Conv2d(inlet, outlet, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.act(self.norm(self.conv1(x))))
        return out if self.skip is None else out + self.skip(x)


blocks = st.tuples(
    st.sampled_from([4, 6]), st.sampled_from(list(NORMS)), st.sampled_from(list(ACTIVATIONS)),
    st.booleans(), st.sampled_from([1, 2]), st.sampled_from(list(POOLS)),
)  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    layers: list[nn.Module] = [nn.Conv2d(INLET[0], 4, 3, padding=1), nn.ReLU()]
    width, pools = 4, 0
    for outlet, norm, activation, skip, groups, pool in draw(
        st.lists(blocks, min_size=1, max_size=3)
    ):
        layers.append(Block(width, outlet, norm, activation, skip, groups))
        width = outlet
        if pools < 2:
            layers.append(POOLS[pool]())
            pools += pool != "none"
    flat = draw(st.booleans())
    if not flat:
        layers.append(nn.AdaptiveAvgPool2d(2))
    size = 4 if not flat else (8 // 2**pools) ** 2
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size, 3)).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net.eval()


@settings(max_examples=20, deadline=None)
@given(
    networks(),
    st.lists(
        st.tuples(st.sampled_from(["r2wider", "net2wider", "netmorph"]), st.integers(0, 99)),
        min_size=2, max_size=4,
    ),
    st.integers(0, 99), st.booleans(),
)  # fmt: skip
def test_the_function_stays_through_several_transforms(net, widenings, place, deepened) -> None:
    x = torch.randn(3, *INLET, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
    student, changed = net, 0
    for method, choice in widenings:
        names = [n for n, m in student.named_modules() if linear_map(m) is not None]
        layer = names[choice % (len(names) - 1)]  # but the last one, which gives the output
        volume = find_volume(student, layer, x)
        channels = volume.width + 2 * volume.groups
        try:
            student = widen(student, layer, channels, method, inlet=INLET, seed=choice)
        except TransformError as error:
            # The one thing that some of these networks do not allow one of these methods.
            assert method == "net2wider" and "residual connection" in str(error)
        else:
            assert find_volume(student, layer, x).width == channels
            changed += 1
    if deepened:
        student = deepen(student, "0", inlet=INLET, seed=place)
        student = enlarge_kernel(student, "0.0", 5, inlet=INLET)
    assert changed or deepened or all(method == "net2wider" for method, _ in widenings)
    with torch.no_grad():
        assert (student(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
