"""Data: sources that load a data set, the data set, and the loader that serves it step by step."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, get_args

from suffuse.base.errors import UsageError, closest
from suffuse.base.part import Joint
from suffuse.data.buckets import BucketLoader, Buckets
from suffuse.data.dataset import Dataset
from suffuse.data.densities import DensityPart, GaussianMixture, MixturePart, Rings
from suffuse.data.digits import Digits
from suffuse.data.hub import HubImages
from suffuse.data.images import Images
from suffuse.data.loader import Loader
from suffuse.data.low_rank import LowRankMixture
from suffuse.data.outliers import OutlierMixture
from suffuse.data.part import DataPart
from suffuse.data.pictures import contact_sheet, save_picture, to_uint8
from suffuse.data.report import DataReport
from suffuse.data.shapes import Shapes, read_shapes
from suffuse.data.sources import ZipLimits
from suffuse.data.trusses import Trusses

__all__ = [
    "BucketLoader",
    "Buckets",
    "Data",
    "DataPart",
    "DataReport",
    "Dataset",
    "DensityPart",
    "Digits",
    "GaussianMixture",
    "HubImages",
    "Images",
    "Loader",
    "LowRankMixture",
    "MixturePart",
    "OutlierMixture",
    "Rings",
    "Shapes",
    "Trusses",
    "ZipLimits",
    "contact_sheet",
    "data_from",
    "read_shapes",
    "save_picture",
    "to_uint8",
]

Data = Annotated[
    DataPart,
    Joint("data", Digits, Shapes, Trusses, Images, HubImages, GaussianMixture, Rings, LowRankMixture, OutlierMixture),
]


def data_from(text: str) -> dict[str, str]:
    """What a single word on the command line means as data: a folder or zip of pictures, or a kind of data.

    Returns:
        The plain form of a part.

    Raises:
        UsageError: It is neither, or both.
    """
    joint: Joint = get_args(Data)[1]
    path = Path(text).expanduser()
    is_pictures = path.is_dir() or (path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)))
    if text in joint.parts and is_pictures:
        raise UsageError(
            f"data {text!r} is both a kind of data and a folder here; "
            f"write data=./{text} for the folder or data.kind={text} for the kind"
        )
    if is_pictures:
        return {"kind": "images", "path": text}
    if text in joint.parts:
        return {"kind": text}
    near = closest(text, joint.parts)
    raise UsageError(
        f"data {text!r} is neither a folder or zip that is there nor a kind of data; "
        + (f"did you mean {near!r}? " if near else "")
        + f"kinds: {', '.join(sorted(joint.parts))}"
    )
