"""How a picture becomes a network's input: resized, cropped, standardised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from PIL import Image
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.tensors import Statistics

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of a picture.

    Attributes:
        size: height and width of an input.
        resize: what the shorter side is resized to before the middle is cut out.
        mean, std: of each channel, where black is 0 and white is 1; three numbers for colours, one
            for grey.
        interpolation: of resizing.
        squash: whether both sides are resized to `resize`, so that nothing but the shape of the
            picture is lost.

    Raises:
        DataError: a number that cannot be.
    """

    size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise DataError(
                f"preprocessing: size must be above 0 and at most resize, not {self.size} and "
                f"{self.resize}"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise DataError(
                f"preprocessing: mean {self.mean} and std {self.std} must both have three numbers, "
                "or one for grey pictures"
            )
        if not all(deviation > 0 for deviation in self.std):
            raise DataError(f"preprocessing: std must be above 0, not {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise DataError(
                f"preprocessing: interpolation is {' or '.join(get_args(Interpolation))}, not "
                f"{self.interpolation!r}"
            )

    @property
    def channels(self) -> int:
        """3 for colours, 1 for grey."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an input (C, H, W)."""
        return (self.channels, self.size, self.size)

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of bytes."""
        mean, std = (tuple(round(255 * x, 4) for x in each) for each in (self.mean, self.std))
        return mean, std

    def at_size(self, size: int) -> Preprocessing:
        """The same for inputs of another size, which show as much of a picture."""
        return replace(self, size=size, resize=max(size, round(self.resize * size / self.size)))

    def pixels(self, image: Image.Image) -> Tensor:
        """Bytes (C, H, W) of a picture, not standardised yet."""
        # torchvision takes a second to import and is needed where pictures are read.
        from torchvision.transforms.functional import (
            InterpolationMode,
            center_crop,
            pil_to_tensor,
            resize,
        )

        side = [self.resize] * (2 if self.squash else 1)
        image = image.convert("RGB" if self.channels == 3 else "L")
        image = resize(image, side, InterpolationMode(self.interpolation))
        found: Tensor = pil_to_tensor(center_crop(image, [self.size, self.size]))
        return found


def usual_preprocessing(size: int) -> Preprocessing:
    """What is usual for ImageNet: resized to 8/7 of the size, the middle cut out."""
    return Preprocessing(size, max(size, round(size * 8 / 7)))
