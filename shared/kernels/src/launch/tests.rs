use super::*;

const MISTRAL: AttendShape =
    AttendShape { rows: 1, heads: 32, kv_heads: 8, head_dim: 128, table_width: 94, splits: crate::splits(3000) };

#[test]
fn one_row_over_three_thousand_positions_fills_the_chip() {
    let launch = paged_attend(Kind::Bf16, MISTRAL).unwrap();
    assert_eq!((launch.function, launch.grid, launch.block), ("paged_attend_bf16", [8, 47, 1], [128, 1, 1]));
    let blocks: u32 = launch.grid.iter().product();
    assert!(blocks > 2 * 132, "{blocks} thread blocks");
}

#[test]
fn attention_never_asks_for_more_than_48_kib_of_shared_memory() {
    for (head_dim, group) in (1..=32).flat_map(|step| (1..=16).map(move |group| (step * 8, group))) {
        let shape = AttendShape { heads: 2 * group, kv_heads: 2, head_dim, ..MISTRAL };
        let launch = paged_attend(Kind::F32, shape).unwrap();
        assert!(launch.shared_bytes <= 48 << 10, "{head_dim} x {group}: {} bytes", launch.shared_bytes);
        assert!([64, 128, 256].contains(&launch.block[0]), "{head_dim}: {:?}", launch.block);
        assert!(launch.block[0] as usize >= head_dim, "a thread for each pack of 8 positions' keys");
    }
}

#[test]
fn attention_refuses_what_its_kernel_is_not_made_for() {
    let error = |shape| paged_attend(Kind::F16, shape).unwrap_err().to_string();
    let wide = error(AttendShape { head_dim: 264, ..MISTRAL });
    assert_eq!(wide, "paged_attend: head_dim is 264, the limit is 256");
    let uneven = error(AttendShape { head_dim: 100, ..MISTRAL });
    assert_eq!(uneven, "paged_attend: head_dim is 100, which is no multiple of 8");
    let group = error(AttendShape { heads: 17, kv_heads: 1, ..MISTRAL });
    assert_eq!(group, "paged_attend: heads for each head of keys is 17, the limit is 16");
    let heads = error(AttendShape { heads: 30, ..MISTRAL });
    assert_eq!(heads, "paged_attend: heads is 30, which is no multiple of 8");
    let rows = error(AttendShape { rows: 65_536, ..MISTRAL });
    assert_eq!(rows, "paged_attend: thread blocks along z is 65536, the limit is 65535");
}

#[test]
fn what_is_empty_is_not_launched() {
    assert_eq!(gather(Kind::F32, 0, 8).unwrap_err().to_string(), "gather: rows is 0, do not launch it");
    assert!(bias_act(Kind::F32, 3, 0).is_err());
    let small = unfold(Kind::F32, UnfoldShape { tiles: 1, channels: 3, side: 13, patch: 14 });
    assert_eq!(small.unwrap_err().to_string(), "unfold: patches along a side is 0, do not launch it");
}

#[test]
fn matrices_are_cut_in_packs_and_rows_in_warps() {
    let launch = silu_mul(Kind::F16, 3, 4100).unwrap();
    assert_eq!(launch.grid, [(3u32 * 513).div_ceil(256), 1, 1]);
    let threads = |width| rms_norm(Kind::Bf16, 1, width).unwrap().block[0];
    assert_eq!([1, 256, 257, 1024, 4096, 8192].map(threads), [32, 32, 64, 128, 512, 512]);
    assert!(bias_act(Kind::F16, 1 << 20, 1 << 15).is_err(), "more packs than 32 bits count");
}

#[test]
fn blocks_are_copied_by_as_many_thread_blocks_as_they_need() {
    let shape = CopyShape { pairs: 3, layers: 32, blocks: 100, block_len: 32 * 8 * 128 };
    assert_eq!(copy_blocks(Kind::Bf16, shape).unwrap().grid, [4, 3, 64]);
}

#[test]
fn a_row_is_turned_by_one_thread_for_each_pair_of_packs() {
    let shape = RopeShape { rows: 5, heads: 32, kv_heads: 8, head_dim: 128 };
    // 48 heads of 8 pairs of packs
    assert_eq!(rope_cache(Kind::F16, shape).unwrap().grid, [5, 3, 1]);
}

#[test]
fn a_row_of_scores_has_a_thread_for_each_lane_and_each_id_of_one() {
    let launch = choose(Kind::Bf16, 3, 32_064, 32_064).unwrap();
    assert_eq!((launch.function, launch.grid, launch.block), ("choose_bf16", [3, 1, 1], [1024, 1, 1]));
    assert!(launch.shared_bytes <= 48 << 10);
    let error = choose(Kind::F32, 1, (1 << 20) + 1, 1 << 21).unwrap_err().to_string();
    assert_eq!(error, "choose: vocabulary is 1048577, the limit is 1048576");
    let error = choose(Kind::F32, 1, 100, 99).unwrap_err().to_string();
    assert_eq!(error, "choose: vocabulary is 100, the limit is 99");
}
