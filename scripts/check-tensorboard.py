#!/usr/bin/env python3
"""Reads a folder of event files with TensorBoard's own loader and prints what it finds.

    pip install tensorboard
    scripts/check-tensorboard.py runs/demo/tb      # tags and steps; fails on a step seen twice
    scripts/check-tensorboard.py --golden OUT_DIR  # the bytes that the unit test compares with
"""

import struct
import sys
from pathlib import Path


def show(folder):
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    failed = False
    steps_on_disk = {}
    files = sorted(Path(folder).glob("events.out.tfevents.*"))
    if not files:
        sys.exit(f"{folder}: no event files")
    for path in files:
        events = list(event_file_loader.EventFileLoader(str(path)).Load())
        starts = [e.step for e in events if e.HasField("session_log")]
        print(f"{path.name}: {len(events)} events, session start at {starts}")
        for event in events:
            for value in event.summary.value:
                steps_on_disk.setdefault(value.tag, []).append(event.step)
    for tag, steps in sorted(steps_on_disk.items()):
        monotonic = all(a < b for a, b in zip(steps, steps[1:]))
        failed |= not monotonic
        print(f"  on disk  {tag}: steps {steps}{'' if monotonic else '  NOT INCREASING'}")
    # 0: load everything instead of a sample.
    seen = EventAccumulator(folder, size_guidance={"tensors": 0})
    seen.Reload()
    for tag in seen.Tags()["tensors"]:
        plugin = seen.SummaryMetadata(tag).plugin_data.plugin_name
        steps = [event.step for event in seen.Tensors(tag)]
        last = seen.Tensors(tag)[-1].tensor_proto
        if plugin == "scalars":
            detail = f"last value {last.float_val[0] if last.float_val else 0.0:g}"
        elif plugin == "images":
            width, height, png = last.string_val[:3]
            signature = png[:8] == b"\x89PNG\r\n\x1a\n"
            size = struct.unpack(">II", png[16:24])
            agrees = signature and size == (int(width), int(height))
            failed |= not agrees
            detail = f"{width.decode()}x{height.decode()} PNG{'' if agrees else '  SIZE DIFFERS'}"
        else:
            detail = repr(last.string_val[0][:60]) if last.string_val else ""
        failed |= any(a >= b for a, b in zip(steps, steps[1:]))
        print(f"  loaded   {tag} [{plugin}]: steps {steps}, {detail}")
    sys.exit(1 if failed else 0)


def golden(folder):
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    def framed(event):
        data = event.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(data))
        crc = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        return (length + crc[0] + data + crc[1]).hex()

    scalar = event_pb2.Event(wall_time=1.7e9, step=300)
    scalar.summary.value.add(tag="loss/total", simple_value=0.5)
    scalar.summary.value.add(tag="lr", simple_value=0.0)
    version = event_pb2.Event(wall_time=1.7e9, file_version="brain.Event:2")
    Path(folder, "golden_scalar.hex").write_text(framed(scalar) + "\n")
    Path(folder, "golden_version.hex").write_text(framed(version) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--golden":
        golden(sys.argv[2])
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        show(sys.argv[1])
    else:
        sys.exit(__doc__)
