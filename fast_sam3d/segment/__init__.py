"""A mask from clicks, a box or brush strokes: without weights by a cut of superpixels, or by SAM 2."""
