"""WebDataset tar files and saved `datasets` folders of pictures, and what is refused of them."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.tasks import from_datasets, saved_dataset, webdataset

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


def content(number: int, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (10 * number, 0, 255)).save(file, kind)
    return file.getvalue()


def value(image: Image.Image) -> int:
    return int(np.asarray(image.convert("RGB"))[0, 0, 0]) // 10


def packed(path: Path, members: dict[str, bytes | None]) -> Path:
    """A tar file of members; None is a folder."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def sample(number: int, folder: str = "") -> dict[str, bytes | None]:
    key = f"{folder}{number:04}"
    return {
        f"{key}.png": content(number),
        f"{key}.cls": str(number % 2).encode(),
        f"{key}.json": b'{"a": 1}',
    }


def test_samples_of_tar_files_are_read_in_order(tmp_path: Path) -> None:
    for shard in range(2):
        members: dict[str, bytes | None] = {"train": None, "train/.hidden.png": b"x"}
        for number in range(12 * shard, 12 * shard + 12):
            members |= sample(number, "train/")
        packed(tmp_path / f"train-{shard}.tar", members)
    found = webdataset(tmp_path / "train-*.tar")
    assert len(found) == 24
    assert [(value(image), label) for image, label in map(found.__getitem__, range(24))] == [
        (number, number % 2) for number in range(24)
    ]
    again = pickle.loads(pickle.dumps(found))
    assert value(again[13][0]) == 13
    task = from_datasets(found, webdataset([tmp_path / "train-0.tar"]), (3, 8, 8), 2)
    assert [task.size(split) for split in ("train", "validation", "test")] == [22, 2, 12]
    assert {int(t) for batch in task.batches("train", 8) for t in batch.targets} == {0, 1}


def test_one_sample_may_have_several_endings_and_no_label(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "a.tar",
        {"a/1.seg.png": content(9), "a/1.JPG": content(1, "jpeg"), "b/1.webp": content(2, "webp")},
    )
    found = webdataset(path)
    assert [found[0][1], found[1][1]] == [0, 0]
    assert len(found) == 2  # a/1 and b/1: the ending .seg.png is no picture of its own
    assert abs(np.asarray(found[0][0])[0, 0, 0].astype(int) - 10) < 5


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def test_tar_files_that_are_not_to_be_trusted_are_refused(tmp_path: Path) -> None:
    good = packed(tmp_path / "good.tar", sample(1))
    path = tmp_path / "bad.tar"
    path.write_bytes(good.read_bytes())
    with tarfile.open(path, "a") as archive:
        archive.addfile(link("0002.png"))
    with pytest.raises(DataError, match=r"bad.tar holds a link, 0002\.png, which is not followed"):
        webdataset(path)
    whole = good.read_bytes()
    path.write_bytes(whole[: 512 + 20])
    with pytest.raises(DataError, match=r"bad\.tar (ends within|cannot be read)"):
        webdataset(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        webdataset(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(good, "good.tar")
    with pytest.raises(DataError, match="give tar files without compression"):
        webdataset(path)
    packed(path, {"notes.txt": b"hello"})
    with pytest.raises(DataError, match="holds no picture"):
        webdataset(path)
    with pytest.raises(DataError, match="there is no .*nowhere.tar"):
        webdataset(tmp_path / "nowhere.tar")
    # Names are never paths: a sample of this name is read, and nothing is written.
    outside = webdataset(packed(path, {"../../outside.png": content(3)}))
    assert value(outside[0][0]) == 3
    assert not (tmp_path.parent.parent / "outside.png").exists()


def test_samples_that_are_damaged_are_named(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "a.tar", {"1.png": b"no picture", "2.png": content(2), "2.cls": b"cat"}
    )
    found = webdataset(path)
    with pytest.raises(DataError, match=r"sample '1' of .*a\.tar is not a readable picture"):
        found[0]
    with pytest.raises(DataError, match=r"label of sample '2' of .*a\.tar is b'cat', not a whole"):
        found[1]
    with pytest.raises(DataError, match=r"sample '1' of"):
        from_datasets(found, found, (3, 8, 8), 2).size("train")


def saved(folder: Path, tables: list[Any], kind: str = "arrow") -> Path:
    """A folder as `datasets` saves it."""
    folder.mkdir()
    names = [f"data-{number:05}.{kind}" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names]})
    )
    (folder / "dataset_info.json").write_text("{}")
    return folder


def table(numbers: range, **columns: Any) -> Any:
    pictures = [{"bytes": content(number), "path": f"{number}.png"} for number in numbers]
    return pyarrow.table({"image": pictures, "label": [n % 2 for n in numbers], **columns})


def test_saved_data_sets_are_read_in_order(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", [table(range(0, 12)), table(range(12, 24))])
    found = saved_dataset(folder)
    order = [23, 0, 12, 11, 5]
    assert [(value(found[n][0]), found[n][1]) for n in order] == [(n, n % 2) for n in order]
    assert len(found) == 24
    again = pickle.loads(pickle.dumps(found))
    assert value(again[13][0]) == 13
    with pytest.raises(IndexError):
        found[24]
    task = from_datasets(found, saved_dataset(folder), (3, 8, 8), 2)
    assert [task.size(split) for split in ("train", "validation", "test")] == [22, 2, 24]
    bare = pyarrow.table({"picture": [content(3), content(4)]})
    pyarrow.parquet.write_table(bare, tmp_path / "bare.parquet")
    plain = saved_dataset(tmp_path / "bare.parquet", picture="picture")
    assert [(value(image), label) for image, label in (plain[0], plain[1])] == [(3, 0), (4, 0)]


def test_tables_without_pictures_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", [table(range(2))])
    with pytest.raises(DataError, match="has no column 'img'; give picture= one of image, label"):
        saved_dataset(folder, picture="img")
    pyarrow.parquet.write_table(table(range(0)), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="has no rows"):
        saved_dataset(tmp_path / "empty.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="bad.parquet cannot be read"):
        saved_dataset(tmp_path / "bad.parquet")
    paths = pyarrow.table({"image": [{"bytes": None, "path": "a.png"}], "label": ["cat"]})
    folder = saved(tmp_path / "paths", [paths])
    with pytest.raises(DataError, match="row 0 of .* has no bytes of a picture in 'image'"):
        saved_dataset(folder)[0]
    named = saved(tmp_path / "named", [table(range(1)).set_column(1, "label", [["cat"]])])
    with pytest.raises(DataError, match="has the label 'cat'; labels are whole numbers"):
        saved_dataset(named)[0]
