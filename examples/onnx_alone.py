"""Joints of a person by a file of `posematch export format=onnx decode=true`, without posematch.

python onnx_alone.py pose.onnx photo.jpg [x y width height]   (the person's box; else the photo)
"""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it tells its maker about each session
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def crop_scale(box_img, padding, about):
    """Crop pixels a photo pixel, (x, y), and the crop's point that the photo's (0, 0) falls on."""
    height, width = about["input_size"]
    x, y, w, h = box_img
    # The box takes the crop's shape and grows by the padding, about its middle.
    grown = np.array([max(w, h * width / height), max(h, w * height / width)]) * padding
    size = np.array([width, height]) - (about["convention"] == "udp")
    scale = size / grown
    return scale, size / 2 - scale * (x + w / 2, y + h / 2)


def sampled(pixels, places, axis):
    """Pixels at places between them, linearly; beyond the photo it is black."""
    low = np.floor(places).astype(int)
    black = np.pad(pixels, [(1, 1) if one == axis else (0, 0) for one in range(3)])
    near, far = (black.take(np.clip(low + 1 + i, 0, pixels.shape[axis] + 1), axis) for i in (0, 1))
    part = np.expand_dims(places - low, [one for one in range(3) if one != axis])
    return near * (1 - part) + far * part


def main(model, photo, *box):
    """Print each joint's name, its place in the photo in pixels, and its score."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["posematch"])
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
    box_img = [float(one) for one in box] or [0, 0, pixels.shape[1], pixels.shape[0]]
    scale, shift = crop_scale(box_img, about["padding"] if box else 1, about)
    height, width = about["input_size"]
    rows = sampled(pixels, (np.arange(height) - shift[1]) / scale[1], axis=0)
    crop = sampled(rows, (np.arange(width) - shift[0]) / scale[0], axis=1)
    crops = np.round(crop).astype(np.uint8).transpose(2, 0, 1)[None]
    joints_crop, scores = session.run(["joints_crop", "scores"], {"crops": crops})
    joints_img = (joints_crop[0] - shift) / scale
    for name, (x, y), score in zip(about["joints"], joints_img, scores[0], strict=True):
        print(f"{name:16} {x:8.2f} {y:8.2f} {score:6.3f}")


main(*sys.argv[1:])
