"""Our betons are FFCV's: its own types describe them, and its own Reader and Loader read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_advss.config.schema import Data
from dist_advss.data.betons.beton import open_beton
from dist_advss.data.betons.write import describe, write_source
from dist_advss.data.image_set import Source
from tests.data.conftest import noise

# importing FFCV changes torch and numba, so it is done in a process of its own
SCRIPT = """
import sys
import numpy as np
from ffcv import types
from ffcv.fields import IntField, RGBImageField
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from dist_advss.data.betons import beton

assert (types.HeaderType, types.FieldDescType) == (beton.HEADER, beton.FIELD)
assert (types.ALLOC_TABLE_TYPE, types.CURRENT_VERSION) == (beton.ALLOCATION, beton.VERSION)
assert types.get_metadata_type([RGBImageField(), IntField()]) == beton.RECORD
reader = Reader(sys.argv[1])
assert list(map(type, reader.handlers.values())) == [RGBImageField, IntField]
loader = Loader(sys.argv[1], 50, 1, order=OrderOption.SEQUENTIAL, drop_last=False)
parts = list(zip(*((image.clone().numpy(), label.clone().numpy()) for image, label in loader)))
np.savez(sys.argv[2], images=np.concatenate(parts[0]), labels=np.concatenate(parts[1])[:, 0])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ffcv")
def test_ffcv_itself_reads_our_files(tmp_path: Path) -> None:
    images, names = noise(1100, 48), [str(k) for k in range(10)]  # more than three pages
    source = Source(np.arange(len(images)) % 10, names, lambda rows: images[rows])
    path = tmp_path / "train.beton"
    write_source(source, describe(Data(name="cifar10", size=48, jpeg=0.2), "train", names, ""), path)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "read.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    read = np.load(tmp_path / "read.npz")
    beton = open_beton(path)
    raw = beton.mode == 1
    assert 800 < raw.sum() < 950
    assert np.array_equal(read["labels"], source.labels)
    assert np.array_equal(read["images"][raw], images[raw])
    shown = np.stack([beton.picture(int(row)) for row in np.flatnonzero(~raw)]).astype(int)
    assert np.abs(shown - read["images"][~raw]).mean() < 2  # Pillow's decoder beside FFCV's faster one
