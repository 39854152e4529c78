#!/usr/bin/env python3
"""Make the small images beside this file and what they decode and resize to (`expected.json`).

    python3 nodes/data/tests/images/make.py

Needs Pillow 13.0, NumPy and OpenCV 5.0 (opencv-python-headless). The pictures
are 7x5 pixels; `resize` holds the results of Pillow's LANCZOS and BOX and of
OpenCV's INTER_AREA, LINEAR, CUBIC and NEAREST_EXACT, and `colour` hues turned in
OpenCV's float HSV and gammas of 0..1, on a picture whose pixel (x, y), channel c, is
(37 x + 71 y + 101 c + 13 x y) mod 256.
"""

import json
import pathlib

import cv2
import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
W, H = 7, 5


def pattern(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((37 * x + 71 * y + 101 * c + 13 * x * y) % 256).astype(np.uint8)


def main():
    rgb = pattern(W, H)
    alpha = ((np.arange(W * H) * 7) % 256).astype(np.uint8).reshape(H, W)
    grey = rgb[:, :, 0]
    colour = Image.fromarray(rgb)
    rgba = Image.fromarray(np.dstack([rgb, alpha]), "RGBA")
    smooth = np.zeros((H * 4, W * 4, 3), np.uint8)
    smooth[:, :, 0] = np.linspace(0, 255, W * 4)[None, :]
    smooth[:, :, 1] = np.linspace(255, 0, H * 4)[:, None]
    smooth[:, :, 2] = 90
    smooth = Image.fromarray(smooth)

    files = {
        "rgb.png": lambda p: colour.save(p),
        "rgba.png": lambda p: rgba.save(p),
        "grey.png": lambda p: Image.fromarray(grey).save(p),
        "grey-alpha.png": lambda p: Image.fromarray(np.dstack([grey, alpha]), "LA").save(p),
        "palette.png": lambda p: colour.quantize(16).save(p),
        "palette-alpha.png": lambda p: rgba.quantize(16, method=2).save(p),
        "bits1.png": lambda p: Image.fromarray(grey).convert("1").save(p),
        "rgb.bmp": lambda p: colour.save(p),
        "lossless.webp": lambda p: colour.save(p, lossless=True),
        "lossless-alpha.webp": lambda p: rgba.save(p, lossless=True, exact=True),
        "smooth.jpg": lambda p: smooth.save(p, quality=95),
        "progressive.jpeg": lambda p: smooth.save(p, quality=95, progressive=True),
        "grey.jpg": lambda p: smooth.convert("L").save(p, quality=95),
        "smooth.webp": lambda p: smooth.save(p, quality=95),
        "cmyk.jpg": lambda p: smooth.convert("CMYK").save(p, quality=95),
    }
    expected = {"files": {}, "resize": []}
    for name, save in files.items():
        path = HERE / name
        save(path)
        image = Image.open(path)
        # Alpha dropped, not blended; a palette's own colours.
        pixels = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image.convert("RGB"))[:, :, :3]
        expected["files"][name] = {"size": list(image.size), "pixels": pixels.flatten().tolist()}
    # Sixteen bits a channel, which Pillow cannot write as RGB.
    wide = (rgb.astype(np.uint16) << 8) | rgb[:, ::-1]
    cv2.imwrite(str(HERE / "rgb16.png"), wide[:, :, ::-1])
    high = np.round(wide.astype(np.float64) / 257).astype(int)
    expected["files"]["rgb16.png"] = {"size": [W, H], "pixels": high.flatten().tolist()}

    for (w, h), (tw, th) in [((7, 5), (3, 2)), ((8, 6), (4, 3)), ((13, 9), (7, 9)), ((5, 4), (5, 3))]:
        out = cv2.resize(pattern(w, h), (tw, th), interpolation=cv2.INTER_AREA)
        expected["resize"].append({"filter": "area", "from": [w, h], "to": [tw, th], "pixels": out.flatten().tolist()})
    for (w, h), (tw, th) in [((5, 4), (9, 7)), ((7, 5), (3, 8)), ((9, 9), (4, 2)), ((2, 2), (5, 5)), ((6, 3), (6, 7))]:
        out = np.asarray(Image.fromarray(pattern(w, h)).resize((tw, th), Image.LANCZOS))
        expected["resize"].append({"filter": "lanczos", "from": [w, h], "to": [tw, th], "pixels": out.flatten().tolist()})
    # Of two pixels as near OpenCV takes either; in these sizes there are none, or it takes the one behind.
    sizes = [((7, 5), (3, 2)), ((5, 5), (9, 7)), ((13, 9), (7, 12)), ((2, 2), (5, 5)), ((6, 3), (6, 7)), ((9, 8), (4, 4))]
    cv = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST_EXACT}
    for name, method in list(cv.items()) + [("box", None)]:
        for (w, h), (tw, th) in sizes:
            if method is None:
                out = np.asarray(Image.fromarray(pattern(w, h)).resize((tw, th), Image.BOX))
            else:
                out = cv2.resize(pattern(w, h), (tw, th), interpolation=method)
            expected["resize"].append({"filter": name, "from": [w, h], "to": [tw, th], "pixels": out.flatten().tolist()})
    # Making larger with INTER_AREA.
    out = cv2.resize(pattern(5, 4), (9, 7), interpolation=cv2.INTER_AREA)
    expected["resize"].append({"filter": "area", "from": [5, 4], "to": [9, 7], "pixels": out.flatten().tolist()})

    unit = pattern(9, 6).astype(np.float32) / 255
    expected["colour"] = []
    for degrees in [-16, -3.5, 8, 120]:
        hsv = cv2.cvtColor(unit, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0] + degrees) % 360
        out = np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(int)
        expected["colour"].append({"kind": "hue", "amount": degrees, "pixels": out.flatten().tolist()})
    for gamma in [0.95, 1.05]:
        out = np.round(unit.astype(np.float64) ** gamma * 255).astype(int)
        expected["colour"].append({"kind": "gamma", "amount": gamma, "pixels": out.flatten().tolist()})
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
