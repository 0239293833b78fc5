"""Write LazySlide's tissue of slides as PNG masks beside them. The standard input has the path of a slide on each line.

`dirt_table.py` runs this with a Python that has LazySlide; neither pathopatch nor the other finders import it.
"""

import sys
from pathlib import Path

import cv2
import lazyslide
import numpy as np
from wsidata import open_wsi

for text in sys.stdin:
    path = Path(text.strip())
    slide = open_wsi(path)
    mask = np.zeros(slide.properties.shape, np.uint8)
    lazyslide.pp.find_tissues(slide)
    for polygon in slide.shapes["tissues"].geometry if "tissues" in slide.shapes else ():
        rings = [np.array(ring.coords).astype(np.int32) for ring in (polygon.exterior, *polygon.interiors)]
        mask |= cv2.fillPoly(np.zeros_like(mask), rings, 255)  # rings inside others are holes
    cv2.imwrite(str(path.with_suffix(".png")), mask)
    print(path.with_suffix(".png"), flush=True)
