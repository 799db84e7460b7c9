"""Detection data: images with boxes, from the formats of Pascal VOC and COCO or drawn on the spot."""
