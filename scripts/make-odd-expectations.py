#!/usr/bin/env python3
"""Writes tests/data/expectations.json: what nibabel reads from the shared test volumes.

usage: scripts/make-odd-expectations.py SHARED_DATA_FOLDER > tests/data/expectations.json

Made with nibabel 5.4.2 and numpy. For every file: the shape after trailing axes of length 1 are
dropped (at least 3 axes), the affine, its orientation codes, sum / min / max of the voxels in f64,
and the CRC-32 of the voxels as little-endian f32 in the order [channel, i, j, k], k fastest, where
(i, j, k) are nibabel's first three axes and the rest, first fastest, is the channel. Volumes of
other parts than odd/ carry no affine: only orientation codes and CRC, to keep the table small.
"""
import json
import sys
import warnings
import zlib
from pathlib import Path

import nibabel
import numpy

warnings.simplefilter("ignore")


def channels_first(array):
    shape = list(array.shape) + [1] * (3 - array.ndim)
    array = array.reshape(shape[:3] + [-1], order="F")
    return numpy.moveaxis(array, 3, 0)


def describe(path, full):
    try:
        image = nibabel.load(path)
        if image.get_data_dtype().kind == "c":
            raise TypeError("complex: nibabel would drop the imaginary part")
        values = image.get_fdata(dtype=numpy.float64, caching="unchanged")
        voxels = channels_first(values).astype("<f4")
        out = {
            "shape": list(voxels.shape),
            "codes": "".join(nibabel.aff2axcodes(image.affine)),
            "crc32": zlib.crc32(numpy.ascontiguousarray(voxels).tobytes()),
        }
        if full:
            out["affine"] = image.affine.tolist()
            finite = voxels[numpy.isfinite(voxels)].astype(numpy.float64)
            out["sum"], out["min"], out["max"] = finite.sum(), finite.min(), finite.max()
        return out
    except Exception as error:  # whatever nibabel raises is its refusal
        return {"refused": f"{type(error).__name__}: {error}"[:120].replace(str(path.parent) + "/", "")}


def main(root):
    table = {}
    odd = [p for p in sorted((root / "odd").iterdir()) if p.suffix != ".img"]
    rest = sorted(p for part in ("ct", "mri", "hippocampus") for p in (root / part).rglob("*.nii.gz"))
    for path in odd + rest:
        table[path.relative_to(root).as_posix()] = describe(path, path in odd)
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


main(Path(sys.argv[1]))
