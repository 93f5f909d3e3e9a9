"""Web archives: WARC, WAT and ARC to image-text pairs, and the images that they hold."""
