"""The table of image sets. `data.name` accepts its names. It holds the facts of a set that are known before reading it.

A new set is a function that finds its files, a reader of them, one entry in SETS and `configs/data/NAME.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Set:
    """One set of images.

    files      "module:function" that finds the files of a part, `(data, part) -> list[Path]`; part is "train" (unlabelled
               images included) or "test"
    read       "module:function" that reads them, `(data, part, files) -> Source`
    size       height and width in pixels, channels and classes; None: the files decide
    images     training images with a label, held-out ones included; None: the files decide
    unlabelled training images without a label; pre-training uses them too
    root       default of data.root
    sha256     of the file in this package that contains the set; such a set needs no root
    encoded    whether each image is a separate file, which a .beton file can store unchanged
    """

    files: str
    read: str
    size: int | None = None
    channels: int | None = None
    classes: int | None = None
    images: int | None = None
    unlabelled: int = 0
    root: str | None = None
    sha256: str | None = None
    encoded: bool = False

    @property
    def needs_root(self) -> bool:
        """Whether data.root is required."""
        return self.root is None and self.sha256 is None


# fmt: off
SETS: dict[str, Set] = {
    "fashion_mini":  Set("dist_advss.data.sets.fashion:mini_files", "dist_advss.data.sets.fashion:read_mini",
                         size=28, channels=1, classes=10, images=10_000,
                         sha256="16cbafb4b1d3ed20da13833bd4439ca12b54179723c153015f77b84fcafb9158"),
    "fashion_mnist": Set("dist_advss.data.sets.fashion:full_files", "dist_advss.data.sets.fashion:read_full",
                         size=28, channels=1, classes=10, images=60_000,
                         root="/usr/share/datasets/fashion-mnist"),  # Debian's package dataset-fashion-mnist
    "cifar10":       Set("dist_advss.data.sets.torchvision_sets:cifar10_files",
                         "dist_advss.data.sets.torchvision_sets:read_cifar10",
                         size=32, channels=3, classes=10, images=50_000),
    "cifar100":      Set("dist_advss.data.sets.torchvision_sets:cifar100_files",
                         "dist_advss.data.sets.torchvision_sets:read_cifar100",
                         size=32, channels=3, classes=100, images=50_000),
    "svhn":          Set("dist_advss.data.sets.torchvision_sets:svhn_files",
                         "dist_advss.data.sets.torchvision_sets:read_svhn",
                         size=32, channels=3, classes=10, images=73_257),
    "stl10":         Set("dist_advss.data.sets.torchvision_sets:stl10_files",
                         "dist_advss.data.sets.torchvision_sets:read_stl10",
                         size=96, channels=3, classes=10, images=5_000, unlabelled=100_000),
    "imagenet32":    Set("dist_advss.data.sets.imagenet32:files_of", "dist_advss.data.sets.imagenet32:read",
                         images=1_281_167),
    "folder":        Set("dist_advss.data.sets.folder:files_of", "dist_advss.data.sets.folder:read", encoded=True),
}
# fmt: on
DATASETS = tuple(SETS)
