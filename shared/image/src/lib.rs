//! Images: decode within limits, orientation, exact bicubic, tiles, normalisation.
