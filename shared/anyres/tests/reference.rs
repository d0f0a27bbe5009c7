//! The geometry against the reference: its table of sizes, its golden values, and a sweep for what must always hold.

use std::collections::HashSet;

use tessera_anyres::{EmbeddingRow, Geometry, ImageSize, PatchSource, Plan, Shape};

const SIZES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/sizes_336.csv");

fn pinpoints(tile: u32) -> Vec<ImageSize> {
    [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)].map(|(down, across)| ImageSize::new(down * tile, across * tile)).to_vec()
}

fn geometry(tile: u32) -> Geometry {
    Geometry::new(pinpoints(tile), tile, 14).expect("the grids are whole tiles, the tile is whole patches")
}

fn llava_next() -> Geometry {
    geometry(336)
}

#[test]
fn every_size_of_the_references_table_is_planned_as_the_reference_does() {
    let geometry = llava_next();
    let table = std::fs::read_to_string(SIZES).unwrap();
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some("height,width,grid_h,grid_w,resized_h,resized_w,pad_top,pad_left,pad_bottom,pad_right,image_tokens")
    );
    let mut count = 0;
    for line in lines {
        let expected: Vec<usize> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let plan = geometry.plan(ImageSize::new(expected[0] as u32, expected[1] as u32));
        let pad = plan.padding;
        let sides = [
            plan.image,
            plan.grid,
            plan.resized,
            ImageSize::new(pad.top, pad.left),
            ImageSize::new(pad.bottom, pad.right),
        ];
        let mut got: Vec<usize> = sides.iter().flat_map(|size| [size.height as usize, size.width as usize]).collect();
        got.push(plan.image_tokens());
        assert_eq!(got, expected);
        count += 1;
    }
    assert_eq!(count, 2540);
}

#[test]
fn in_constant_shape_every_size_of_the_table_has_the_same_plan() {
    let geometry = llava_next();
    let table = std::fs::read_to_string(SIZES).unwrap();
    let plans: HashSet<Plan> = table
        .lines()
        .skip(1)
        .map(|line| {
            let sides: Vec<u32> = line.split(',').take(2).map(|side| side.parse().unwrap()).collect();
            let size = ImageSize::new(sides[0], sides[1]);
            let frame = geometry.frame(size);
            let pad = frame.padding;
            assert_eq!(frame.whole, ImageSize::new(672, 672));
            assert_eq!(pad.top + frame.resized.height + pad.bottom, 672, "{size}");
            assert_eq!(pad.left + frame.resized.width + pad.right, 672, "{size}");
            assert!(frame.resized.height == 672 || frame.resized.width == 672, "{size}");
            assert!(pad.bottom - pad.top <= 1 && pad.right - pad.left <= 1, "{size}");
            geometry.plan_of(size, Shape::Constant)
        })
        .collect();
    let plans: Vec<Plan> = plans.into_iter().collect();
    let [plan] = plans[..] else { panic!("{} plans", plans.len()) };
    assert_eq!((plan.tile_count(), plan.feature_rows(), plan.image_tokens()), (5, 2880, 2928));
    assert_eq!(geometry.plan_of(ImageSize::new(300, 2000), Shape::Own), geometry.plan(ImageSize::new(300, 2000)));
}

/// Whatever grids a checkpoint has, an image of the constant size is neither resized nor padded nor cut.
#[test]
fn an_image_of_the_constant_size_fills_its_grid() {
    let mut checked = 0;
    for first in 1..=4_u32 {
        for second in 1..=4 {
            for third in 1..=4 {
                for (tile, patch) in [(336, 14), (384, 14), (56, 14), (27, 4)] {
                    let grids = [(first, second), (second, third), (third, first), (1, 1)];
                    let grids = grids.map(|(down, across)| ImageSize::new(down * tile, across * tile)).to_vec();
                    let geometry = Geometry::new(grids, tile, patch).expect("the grids are whole tiles");
                    let size = geometry.constant_size();
                    let plan = geometry.plan(size);
                    assert_eq!((plan.image, plan.grid, plan.resized), (size, size, size));
                    assert_eq!((plan.first_row, plan.first_column), (0, 0));
                    let n = geometry.patches_per_side();
                    assert_eq!((plan.rows, plan.columns), (plan.tiles.down * n, plan.tiles.across * n));
                    assert_eq!(plan.tile_count(), geometry.max_tiles());
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 256);
}

#[test]
fn the_golden_values_hold() {
    // height, width; grid; resized; kept rows, columns; tokens
    let golden = [
        ((1, 1), (336, 672), (336, 336), (24, 24), 1176),
        ((336, 336), (336, 672), (336, 336), (24, 24), 1176),
        ((672, 672), (672, 672), (672, 672), (48, 48), 2928),
        ((336, 672), (336, 672), (336, 672), (24, 48), 1752),
        ((672, 336), (672, 336), (672, 336), (48, 24), 1776),
        ((336, 1008), (336, 1008), (336, 1008), (24, 72), 2328),
        ((1008, 336), (1008, 336), (1008, 336), (72, 24), 2376),
        ((480, 640), (672, 672), (504, 672), (36, 48), 2340),
        ((640, 480), (672, 672), (672, 504), (48, 36), 2352),
        ((427, 640), (672, 672), (449, 672), (32, 48), 2144),
        ((500, 375), (672, 672), (672, 505), (48, 36), 2352),
        ((333, 500), (336, 672), (336, 505), (24, 36), 1464),
        ((899, 1024), (672, 672), (590, 672), (42, 48), 2634),
        ((808, 1100), (672, 672), (494, 672), (36, 48), 2340),
        ((1080, 1920), (672, 672), (378, 672), (28, 48), 1948),
        ((300, 2000), (336, 1008), (152, 1008), (10, 72), 1306),
    ];
    let geometry = llava_next();
    for ((height, width), grid, resized, kept, tokens) in golden {
        let plan = geometry.plan(ImageSize::new(height, width));
        assert_eq!((plan.grid.height, plan.grid.width), grid, "grid of {height}, {width}");
        assert_eq!((plan.resized.height, plan.resized.width), resized, "resize of {height}, {width}");
        assert_eq!((plan.rows, plan.columns), kept, "window of {height}, {width}");
        assert_eq!(plan.image_tokens(), tokens, "tokens of {height}, {width}");
    }
}

/// What the reference's processor counts, and its packing makes, with the tower of `siglip-so400m-patch14-384`.
#[test]
fn a_tile_that_is_no_whole_number_of_patches_counts_its_whole_ones() {
    let sides = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2), (2, 3), (1, 4), (4, 1)];
    let pinpoints = sides.map(|(down, across)| ImageSize::new(384 * down, 384 * across)).to_vec();
    let geometry = Geometry::new(pinpoints, 384, 14).expect("the grids are whole tiles");
    let golden = [
        ((384, 384), 2, 1485),
        ((480, 640), 5, 2929),
        ((1024, 768), 7, 4744),
        ((333, 1777), 5, 3018),
        ((2000, 301), 5, 2673),
        ((1, 1), 2, 1485),
        ((767, 1153), 7, 5157),
    ];
    for ((height, width), tiles, tokens) in golden {
        let plan = geometry.plan(ImageSize::new(height, width));
        assert_eq!((plan.tile_count(), plan.image_tokens()), (tiles, tokens), "{height}, {width}");
        check(&geometry, &plan);
    }
}

#[test]
fn a_line_of_pixels_keeps_no_row_or_no_column() {
    let geometry = llava_next();
    let wide = geometry.plan(ImageSize::new(1, 1000));
    assert_eq!((wide.rows, wide.columns, wide.feature_rows(), wide.image_tokens()), (0, 72, 576, 576));
    let tall = geometry.plan(ImageSize::new(1000, 1));
    assert_eq!((tall.rows, tall.columns, tall.feature_rows(), tall.image_tokens()), (72, 0, 576, 648));
    assert_eq!(tall.embedding_rows().filter(|row| *row == EmbeddingRow::Newline).count(), 72);
}

#[test]
fn any_size_at_all_has_a_plan() {
    let geometry = llava_next();
    for height in [0, 1, 2, 335, 65_535, u32::MAX - 1, u32::MAX] {
        for width in [0, 1, 5000, 65_536, u32::MAX] {
            check(&geometry, &geometry.plan(ImageSize::new(height, width)));
        }
    }
}

#[test]
fn all_sizes_up_to_1600_agree_with_themselves() {
    for geometry in [llava_next(), geometry(42)] {
        let mut seen = HashSet::new();
        for height in 1..=1600 {
            for width in 1..=1600 {
                let plan = geometry.plan(ImageSize::new(height, width));
                check(&geometry, &plan);
                // Few layouts for many sizes: each of them is walked once.
                if seen.insert((plan.tiles, plan.rows, plan.columns)) {
                    check_layout(&plan);
                }
            }
        }
        let squashed = geometry.max_image_tokens();
        let full = geometry.plan(ImageSize::new(2 * geometry.tile(), 2 * geometry.tile()));
        assert_eq!(full.image_tokens(), squashed, "the bound is reached");
    }
}

/// What holds for every plan, by arithmetic alone.
fn check(geometry: &Geometry, plan: &Plan) {
    let (grid, resized, pad) = (plan.grid, plan.resized, plan.padding);
    assert!(geometry.pinpoints().contains(&grid));
    assert!(resized.height >= 1 && resized.width >= 1, "{plan:?}");
    assert!(resized.height == grid.height || resized.width == grid.width, "{plan:?}");
    assert_eq!(pad.top + resized.height + pad.bottom, grid.height);
    assert_eq!(pad.left + resized.width + pad.right, grid.width);
    assert!(pad.bottom - pad.top <= 1 && pad.right - pad.left <= 1, "the odd pixel goes to the bottom and right");
    let n = geometry.patches_per_side();
    let (down, across) = (plan.tiles.down * n, plan.tiles.across * n);
    assert!(plan.first_row + plan.rows <= down && plan.first_column + plan.columns <= across, "{plan:?}");
    assert!(plan.rows == down || plan.columns == across, "one axis is whole: {plan:?}");
    assert_eq!(2 * plan.first_row + plan.rows, down, "cut alike on both sides: {plan:?}");
    assert_eq!(2 * plan.first_column + plan.columns, across, "cut alike on both sides: {plan:?}");
    assert!(plan.tile_count() <= geometry.max_tiles());
    assert_eq!(plan.feature_rows(), (n * n + plan.rows * plan.columns) as usize);
    assert_eq!(plan.image_tokens(), plan.feature_rows() + plan.rows as usize);
    assert!(plan.image_tokens() <= geometry.max_image_tokens());
}

/// What the two iterators must agree on.
fn check_layout(plan: &Plan) {
    let sources: Vec<PatchSource> = plan.sources().collect();
    assert_eq!(sources.len(), plan.feature_rows());
    let n = plan.patches_per_side as usize;
    let unique: HashSet<PatchSource> = sources.iter().copied().collect();
    assert_eq!(unique.len(), sources.len(), "no patch is used twice");
    assert!(sources.iter().all(|source| source.tile < plan.tile_count() && source.patch < n * n));
    assert!(sources[..n * n].iter().enumerate().all(|(i, source)| *source == PatchSource { tile: 0, patch: i }));

    let rows: Vec<EmbeddingRow> = plan.embedding_rows().collect();
    assert_eq!(rows.len(), plan.image_tokens());
    let mut features = 0;
    for row in &rows {
        if let EmbeddingRow::Feature(index) = *row {
            assert_eq!(index, features, "features stand in packing order");
            features += 1;
        }
    }
    assert_eq!(features, plan.feature_rows());
    let line = plan.columns as usize + 1;
    for (i, row) in rows[n * n..].iter().enumerate() {
        assert_eq!(*row == EmbeddingRow::Newline, i % line == line - 1, "a newline ends each row");
    }
}

#[test]
fn the_grid_is_read_row_by_row_across_tiles() {
    let geometry = geometry(28);
    let plan = geometry.plan(ImageSize::new(56, 56));
    assert_eq!((plan.tiles.down, plan.tiles.across), (2, 2));
    let grid: Vec<(usize, usize)> = plan.sources().skip(4).map(|source| (source.tile, source.patch)).collect();
    let expected = [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1), //
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3), //
        (3, 0),
        (3, 1),
        (4, 0),
        (4, 1), //
        (3, 2),
        (3, 3),
        (4, 2),
        (4, 3),
    ];
    assert_eq!(grid, expected);
}
