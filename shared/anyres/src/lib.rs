//! AnyRes geometry: best grid, tiles, un-padding, token counts, layout.
