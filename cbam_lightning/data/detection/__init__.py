"""Detection data: images with boxes, in the formats of Pascal VOC and COCO or synthetic."""
