"""Picture files as people have them: depth, EXIF, transparency, damage, size, palettes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.tasks import from_datasets, image_folder
from nas_theseus.tasks.pictures import count_transparent, is_transparent, read_picture

RAMP = np.linspace(0, 255, 64).round().reshape(8, 8)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_picture(path)).astype(int)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (RAMP.astype(np.uint8), "8.png"),
        ((RAMP * 257).astype(np.uint16), "16.png"),
        ((RAMP * 257).astype(np.uint16), "16.tif"),
        ((RAMP * 257).astype(np.int32), "16-in-32.tif"),
        ((RAMP / 255 * (2**31 - 1)).astype(np.int32), "32.tif"),
        ((RAMP / 255).astype(np.float32), "floats.tif"),
    ],
)
def test_depths_are_scaled(values: np.ndarray, name: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / name)
    found = pixels(tmp_path / name)
    assert found.shape == (8, 8, 3)
    assert np.array_equal(found, np.stack([RAMP] * 3, -1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((4, 4), 100_000, np.int32),
            "values from 100000 to 1.*either 65,535 or 2,147",
        ),
        (np.full((4, 4), -1, np.int32), "values from -1 to -1"),
        (np.full((4, 4), 200, np.float32), "floats must be between 0 and 1; save it with 8 or 16"),
        (np.full((4, 4), np.nan, np.float32), "values from nan to nan"),
    ],
)
def test_depths_whose_white_is_not_known_are_refused(
    values: np.ndarray, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=message) as refusal:
        read_picture(path)
    assert str(refusal.value).startswith(f"{path} has values")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[:4, :6] = 255  # bright at the top left
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(turned))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "turned.png"), upright)


def test_transparent_pixels_are_put_on_white(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (255, 0, 0, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = pixels(tmp_path / "clear.png")
    assert (found[:2] == (255, 0, 0)).all() and (found[2:] == 255).all()
    palette = Image.fromarray(clear[..., :3]).quantize(4)
    index = palette.getpixel((0, 3))
    palette.save(tmp_path / "palette.png", transparency=index)
    found = pixels(tmp_path / "palette.png")
    assert (found[:2] == (255, 0, 0)).all() and (found[2:] == 255).all()
    clear[..., 3] = 255
    assert not is_transparent(Image.fromarray(clear))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def break_chunk(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, break_chunk, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_damaged_files_are_named(
    damage: Callable[[Path], None], ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{ending}"
    Image.effect_noise((32, 32), 80).save(path)
    damage(path)
    if ending == "jpg" and damage is break_chunk:
        return  # other quantisation: a picture all the same
    with pytest.raises(DataError, match=r"picture\.\w+ is not a readable image: .*; remove it"):
        read_picture(path)
    assert count_transparent([str(path)]) == (0, 1)


def test_huge_pictures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(DataError, match=r"huge\.png is too large: .*; shrink it, or raise PIL"):
        read_picture(path)
    assert count_transparent([str(path)]) == (0, 1)


def test_a_folder_tells_of_transparency(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(10):
                colour = (number, 0, 0, 0 if name == "cat" else 255)
                Image.new("RGBA", (8, 8), colour).save(tmp_path / split / name / f"{number}.png")
    task = image_folder(tmp_path, size=8, workers=0)
    with pytest.warns(UserWarning, match="10 of 20 pictures .* are transparent somewhere; they ar"):
        assert task.size("train") == 18


def test_open_pictures_of_data_sets_are_taken_the_same_way() -> None:
    deep = [(Image.fromarray((RAMP * 257).astype(np.uint16)), n % 2) for n in range(12)]
    plain = [(Image.fromarray(RAMP.astype(np.uint8)), n % 2) for n in range(12)]
    tasks = [from_datasets(d, d, (1, 8, 8), 2, validation_share=0.2) for d in (deep, plain)]
    assert tasks[0].data_hash() == tasks[1].data_hash()
    colours = Image.fromarray(np.full((4, 4, 3), (9, 80, 200), np.uint8)).quantize(4)
    task = from_datasets([(colours, n % 2) for n in range(12)], plain, (3, 4, 4), 2)
    with pytest.raises(DataError, match=r"test input 0 has shape \(1, 8, 8\)"):
        task.size("train")
    wrong = [(Image.fromarray(np.full((8, 8), 7.0, np.float32)), 0)]
    with pytest.raises(DataError, match="images: train input 0 has values from 7 to 7, and floats"):
        from_datasets(wrong, plain, (1, 8, 8), 2).size("train")
