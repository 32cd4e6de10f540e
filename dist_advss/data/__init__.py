"""Image data sets: reading, splitting, batching and augmenting."""

from .augment import as_float, augment
from .image_set import ImageSet
from .load import load_data
from .loader import Batch, Loader, MemoryLoader
from .located import Located, locate
from .make import make_loader, true_labels
from .share import on_node
from .views import held_out_views, training_views

__all__ = [
    "Batch",
    "ImageSet",
    "Loader",
    "Located",
    "MemoryLoader",
    "as_float",
    "augment",
    "held_out_views",
    "load_data",
    "locate",
    "make_loader",
    "on_node",
    "training_views",
    "true_labels",
]
