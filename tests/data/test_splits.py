"""Large data sets: parquet files of Hugging Face, and shards of webdataset."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitq.data import draw_calibration, load_batches, load_labelled, open_images
from vitq.errors import DataError
from vitq.models import Preprocessing

Picture = Callable[[int], Image.Image]


def encoded(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def same(source: Any, make_picture: Picture, preprocessing: Preprocessing, count: int = 6) -> None:
    x_NCHW, labels_N = (torch.cat(part) for part in zip(*load_labelled(source, preprocessing), strict=True))
    transform = preprocessing.transform()
    assert labels_N.tolist() == [seed % 3 for seed in range(count)]
    assert all(torch.equal(x_CHW, transform(make_picture(seed))) for seed, x_CHW in enumerate(x_NCHW))


@pytest.fixture
def checkout(tmp_path: Path, make_picture: Picture) -> Path:
    """A checkout as that of imagenet-1k: three splits in ``data``, two files of validation, labels of test unknown."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files need the extra vitq[parquet]")
    from pyarrow import parquet

    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", kind), ("label", pyarrow.int64())], metadata=metadata)
    (tmp_path / "data").mkdir()
    for name, seeds in (
        ("train-00000-of-00001", range(20, 24)),
        ("test-00000-of-00001", range(10, 13)),
        ("validation-00000-of-00002", range(4)),
        ("validation-00001-of-00002", range(4, 6)),
    ):
        rows = [{"bytes": encoded(make_picture(seed)), "path": f"{seed}.png"} for seed in seeds]
        labels = [-1 if name.startswith("test") else seed % 3 for seed in seeds]
        table = pyarrow.table({"image": rows, "label": labels}, schema=schema)
        parquet.write_table(table, tmp_path / "data" / f"{name}.parquet", row_group_size=3)
    return tmp_path


def test_parquet_is_read_by_split_by_file_and_without_labels(
    checkout: Path, make_picture: Picture, preprocessing: Preprocessing
) -> None:
    source = open_images(checkout / "validation")
    assert source.describe() == "6 images in 3 classes (parquet), labelled"
    same(source, make_picture, preprocessing)
    same(open_images(checkout / "data" / "validation"), make_picture, preprocessing)
    assert len(open_images(checkout / "data" / "train-00000-of-00001.parquet")) == 4
    assert open_images(checkout / "test").unlabelled == 3
    x_NCHW = draw_calibration(open_images(checkout / "test", labels=False), preprocessing, limit=3)
    expected = torch.stack([preprocessing.transform()(make_picture(seed)) for seed in range(10, 13)])
    assert torch.equal(x_NCHW.sum((1, 2, 3)).sort().values, expected.sum((1, 2, 3)).sort().values)
    with pytest.raises(DataError, match="holds the splits test, train, validation; point to one of them, such as"):
        open_images(checkout)
    with pytest.raises(DataError, match="no such folder or file"):
        open_images(checkout / "valid")


def test_damaged_parquet_is_told(checkout: Path, tmp_path: Path) -> None:
    from pyarrow import parquet, table

    broken = checkout / "data" / "validation-00001-of-00002.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"validation-00001-of-00002.parquet cannot be read as parquet"):
        open_images(checkout / "validation")
    parquet.write_table(table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="has the columns text; one must be 'image'"):
        open_images(tmp_path / "other.parquet")
    parquet.write_table(table({"image": [b"x"], "label": ["cat"]}), tmp_path / "words.parquet")
    with pytest.raises(DataError, match="column 'label' holds no class indices"):
        open_images(tmp_path / "words.parquet")


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_shards_are_read_where_they_lie(tmp_path: Path, make_picture: Picture, preprocessing: Preprocessing) -> None:
    for number in range(2):
        members: dict[str, bytes] = {}
        for seed in range(3 * number, 3 * number + 3):
            members[f"a/{seed:05d}.png"] = encoded(make_picture(seed))
            members[f"a/{seed:05d}.cls"] = str(seed % 3).encode()
        shard(tmp_path / f"imagenet-val-{number:06d}.tar", members)
    source = open_images(tmp_path)
    assert source.describe() == "6 images (webdataset), labelled"
    same(source, make_picture, preprocessing)
    same(open_images(tmp_path / "imagenet-val"), make_picture, preprocessing)
    shard(tmp_path / "own.tar", {"1.png": encoded(make_picture(1)), "1.json": b'{"label": 4}', "2.jpg": b"cut"})
    own = open_images(tmp_path / "own.tar")
    assert [item.label for item in own.items] == [4, None] and own.items[1].name == "own.tar:2.jpg"
    with pytest.raises(DataError, match=r"own.tar, 2.jpg: not an image"):
        own.items[1].read()
    assert len(list(load_batches(open_images(tmp_path / "own.tar", labels=False), preprocessing))) == 1


def test_shards_that_are_none_or_have_words_for_labels_are_told(tmp_path: Path, make_picture: Picture) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"a\.tar: no plain tar file"):
        open_images(tmp_path / "a.tar")
    shard(tmp_path / "a.tar", {"1.png": encoded(make_picture(1)), "1.cls": b"cat"})
    with pytest.raises(DataError, match="a label is a class index, not 'cat'"):
        open_images(tmp_path / "a.tar")
    assert not open_images(tmp_path / "a.tar", labels=False).labelled
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="holds parquet and tar files"):
        open_images(tmp_path / "a")
