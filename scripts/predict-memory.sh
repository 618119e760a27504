#!/usr/bin/env bash
# Peak memory of `glmae predict` on a large volume: makes a small network of 14 classes and an int16 volume of
# 512 x 512 x 600 voxels, predicts it and prints the peak of the process (resident, VmHWM). Fails above 2 GB.
# Needs Python 3 (standard library). About ten minutes on two cores.
#
#   scripts/predict-memory.sh                               windows of 96 x 96 x 96, overlap 0.5
#   OVERLAP=0 scripts/predict-memory.sh                     six times fewer windows
#   DIMS=256,256,300 MEMORY_MIB=64 scripts/predict-memory.sh
#   GLMAE=target/release/glmae scripts/predict-memory.sh    a binary that is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${GLMAE:-}" ]]; then
  cargo build --locked --quiet
  GLMAE="${CARGO_TARGET_DIR:-target}/debug/glmae"
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/predict-memory.XXXXXX")
trap 'rm -rf "$work"' EXIT
export GLMAE WORK="$work" DIMS="${DIMS:-512,512,600}" MEMORY_MIB="${MEMORY_MIB:-512}" OVERLAP="${OVERLAP:-0.5}"
export LIMIT_GB="${LIMIT_GB:-2}" DEVICE="${DEVICE:-cpu}"

python3 - <<'PYTHON'
import array, os, resource, struct, subprocess, sys, time

glmae, work = os.environ["GLMAE"], os.environ["WORK"]
CLASSES, ROI = 14, 96


def nifti(path, dims, code, bits, rows):
    """A NIfTI-1 file of 1 mm voxels; rows() yields the voxels, first axis fastest."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *dims, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2
    struct.pack_into("<h", header, 254, 1)
    # LPS, as most CTs are: the volume has to be turned to RAS and back.
    for row, values in enumerate(((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0))):
        struct.pack_into("<4f", header, 280 + 16 * row, *values)
    header[344:348] = b"n+1\0"
    with open(path, "wb") as file:
        file.write(header)
        for row in rows:
            file.write(row)


def image_rows(dims):
    """Smooth int16 values between -1000 and 1000: a wave along the first axis, shifted by the others."""
    wave = [array.array("h", (((i * 3 + shift * 8) % 1000) * 2 - 1000 for i in range(dims[0]))).tobytes()
            for shift in range(125)]
    return (wave[(j // 3 + k // 5) % 125] for k in range(dims[2]) for j in range(dims[1]))


def label_rows(dims):
    """Slabs of all classes."""
    rows = [bytes(((i // 8 + shift) % CLASSES for i in range(dims[0]))) for shift in range(CLASSES)]
    return (rows[j // 8 % CLASSES] for k in range(dims[2]) for j in range(dims[1]))


def run(*args):
    print("+ glmae", *args, flush=True)
    begin = time.monotonic()
    subprocess.run([glmae, *args], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin


small = (ROI, ROI, ROI)
for folder in ("imagesTr", "labelsTr"):
    os.makedirs(f"{work}/set/{folder}")
for case in ("a", "b"):
    nifti(f"{work}/set/imagesTr/{case}.nii", small, 4, 16, image_rows(small))
    nifti(f"{work}/set/labelsTr/{case}.nii", small, 2, 8, label_rows(small))
names = ", ".join(f'"class {c}"' for c in range(CLASSES))
with open(f"{work}/task.toml", "w") as file:
    file.write(f'''title = "Memory"
kind = "classes"
channels = ["CT"]
cases = [1, 1]
loss = "dice_ce"
[image]
roi = [{ROI}, {ROI}, {ROI}]
intensity = {{ kind = "window", lo = -1000.0, hi = 1000.0 }}
[labels]
names = [{names}]
[split]
rule = "every"
every = 2
[[layout]]
id = "*"
image = "imagesTr/*.nii"
label = "labelsTr/*.nii"
''')
settings = {
    "model.patch": 16, "model.dim": 12, "model.depth": 4, "model.heads": 2, "model.feature_size": 1, "train.epochs": 1,
    "train.batch": 1, "train.crops": 1, "train.validate_every": 1, "train.save_every": 1, "infer.windows": 1,
    "data.workers": 1,
}
run("finetune", "--task", f"{work}/task.toml", "--data", f"{work}/set", "--scratch", "--out", f"{work}/run",
    "--device", "cpu", *(text for key, value in settings.items() for text in ("--set", f"{key}={value}")))

dims = tuple(int(n) for n in os.environ["DIMS"].split(","))
nifti(f"{work}/large.nii", dims, 4, 16, image_rows(dims))
before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
# The default of four windows at once; on the CPU they take a quarter of --memory-mib at most.
seconds = run("predict", "--checkpoint", f"{work}/run", "--input", f"{work}/large.nii", "--out", f"{work}/out",
              "--device", os.environ["DEVICE"], "--windows", "4", "--memory-mib", os.environ["MEMORY_MIB"],
              "--overlap", os.environ["OVERLAP"])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
voxels = dims[0] * dims[1] * dims[2]
print(f"{dims} voxels, {CLASSES} classes, windows of {ROI}, overlap {os.environ['OVERLAP']}, "
      f"memory_mib {os.environ['MEMORY_MIB']}: {seconds:.0f} s")
print(f"the volume in f32 {4 * voxels / 1e6:.0f} MB, scores of all voxels {4 * CLASSES * voxels / 1e6:.0f} MB")
if peak == before:
    # The training was larger: this says only that the prediction was not.
    print("at most ", end="")
print(f"peak of glmae predict: {peak / 1024:.0f} MiB resident ({peak * 1024 / 1e9:.2f} GB)")
written = os.path.getsize(f"{work}/out/large.nii.gz")
print(f"label map: {written} bytes")
sys.exit(peak * 1024 > float(os.environ["LIMIT_GB"]) * 1e9)
PYTHON
