//! A model without numbers: it keeps in every position what it was fed there, checks all that came before, and scores by
//! a hash of it. Whoever reads a block of somebody else, or one that was overwritten, gets other scores or fails.

use std::collections::HashMap;

use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_kernels::reference::{Found, choose};
use tessera_kernels::{NONE, TOP_WORDS, TopScores, Wish};

use crate::engine::chain::Run;
use crate::engine::runner::{ModelRunner, RunError, Scores, Slice};
use crate::engine::scheduler::Wanted;
use crate::engine::{BLOCK_POSITIONS, BlockId};

pub(super) const VOCABULARY: usize = 97;
/// The largest scores that it tells: too few for some draws.
const TOLD: usize = 6;

/// Input and hash of everything up to it.
type Position = (u64, u64);

#[derive(Debug)]
pub(super) struct FakeRunner {
    pages: Vec<[Option<Position>; BLOCK_POSITIONS]>,
    /// Images that are here, with how many need them.
    pub(super) images: HashMap<ImageKey, usize>,
    /// Positions before a slice that are checked; a long run checks the last ones only.
    pub(super) checked: usize,
    pub(super) largest_step: usize,
    pub(super) computed: usize,
    pub(super) fails: bool,
    /// It gives all scores where less is wanted, as the CPU does.
    pub(super) gives_all: bool,
    /// How often it was asked for all scores because the largest did not suffice, and how often it told only these or a token.
    pub(super) asked_again: usize,
    pub(super) spared: usize,
    /// All scores of the last step's slices that got the largest.
    kept: Vec<Option<Vec<f32>>>,
}

/// What each slice wanted, and no more: who looks at what was not asked for fails.
#[derive(Debug)]
pub(super) struct FakeScores(Vec<Given>);

#[derive(Debug)]
enum Given {
    Nothing,
    Token(u32),
    Top(TopScores),
    Scores(Vec<f32>),
}

impl Scores for FakeScores {
    fn of(&self, slice: usize) -> &[f32] {
        match &self.0[slice] {
            Given::Scores(scores) => scores,
            // Who is drawn for may have got all scores instead.
            Given::Token(_) | Given::Top(_) => &[],
            other => panic!("scores are looked at where {other:?} was wanted"),
        }
    }

    fn token(&self, slice: usize) -> Option<u32> {
        match &self.0[slice] {
            Given::Token(id) => Some(*id).filter(|id| *id != NONE),
            other => panic!("a token is looked at where {other:?} was wanted"),
        }
    }

    fn top(&self, slice: usize) -> Option<&TopScores> {
        match &self.0[slice] {
            Given::Top(top) => Some(top),
            Given::Scores(_) => None,
            other => panic!("the largest are looked at where {other:?} was wanted"),
        }
    }
}

fn mix(past: u64, input: u64) -> u64 {
    let mut x = (past ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x2545_f491_4f6c_dd1d);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}

/// What an image's row is as an input.
fn image_row(key: ImageKey, row: usize) -> u64 {
    let [a, b, ..] = *key.as_bytes();
    1_000_000 + u64::from(a) * 256_000 + u64::from(b) * 1000 + row as u64
}

/// Scores that are spread, by what came before.
fn scores(past: u64) -> impl Iterator<Item = f32> {
    (0..VOCABULARY as u64).map(move |id| (mix(past, id) % 1000) as f32 / 100.0)
}

/// What a device finds in the scores: a token, and the largest.
fn found(past: u64, wish: Wish) -> (u32, TopScores) {
    let scores: Vec<f32> = scores(past).collect();
    let (mut token, mut top, mut kept) = ([NONE], [0; TOP_WORDS], vec![0.0; VOCABULARY]);
    let found = Found { tokens: &mut token, top: &mut top, scores: &mut kept, stride: VOCABULARY };
    choose(found, &scores, &[wish], VOCABULARY);
    let mut top = TopScores::read(&top);
    top.pairs.truncate(TOLD);
    (token[0], top)
}

impl FakeRunner {
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            pages: vec![[None; BLOCK_POSITIONS]; blocks],
            images: HashMap::new(),
            checked: usize::MAX,
            largest_step: 0,
            computed: 0,
            fails: false,
            gives_all: false,
            asked_again: 0,
            spared: 0,
            kept: Vec::new(),
        }
    }

    fn at(&mut self, table: &[BlockId], position: usize) -> &mut Option<Position> {
        &mut self.pages[table[position / BLOCK_POSITIONS] as usize][position % BLOCK_POSITIONS]
    }

    /// The hash of the positions before `start`, checked.
    fn past(&mut self, table: &[BlockId], start: usize) -> u64 {
        let first = start.saturating_sub(self.checked);
        let mut past = if first == 0 { 0 } else { self.at(table, first - 1).expect("a position is missing").1 };
        for position in first..start {
            let (input, hash) = self.at(table, position).expect("a position is missing");
            past = mix(past, input);
            assert_eq!(past, hash, "position {position} is somebody else's");
        }
        past
    }
}

impl ModelRunner for FakeRunner {
    type Scores = FakeScores;

    fn place(&mut self, key: ImageKey, features: &ImageFeatures) -> Result<(), RunError> {
        if features.image_size.height == 999 {
            return Err(RunError::Features("wrong width".into()));
        }
        *self.images.entry(key).or_default() += 1;
        Ok(())
    }

    fn release(&mut self, key: ImageKey) {
        let needed = self.images.get_mut(&key).expect("an image is let go as often as it was placed");
        *needed -= 1;
        if *needed == 0 {
            self.images.remove(&key);
        }
    }

    fn copy(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError> {
        self.pages[to as usize] = self.pages[from as usize];
        Ok(())
    }

    fn run(&mut self, step: &[Slice<'_>]) -> Result<FakeScores, RunError> {
        if self.fails {
            return Err(RunError::Model("out of luck".into()));
        }
        let (mut all, mut rows) = (Vec::new(), 0);
        self.kept = vec![None; step.len()];
        for (index, slice) in step.iter().enumerate() {
            let mut past = self.past(slice.blocks, slice.positions.start);
            let mut position = slice.positions.start;
            let mut every = Vec::new();
            for run in &slice.runs {
                let inputs: Vec<u64> = match run {
                    Run::Tokens(tokens) => tokens.iter().map(|&token| u64::from(token)).collect(),
                    Run::Image(key, rows) => {
                        assert!(self.images.contains_key(key), "an image is computed before its features came");
                        rows.clone().map(|row| image_row(*key, row)).collect()
                    }
                };
                for input in inputs {
                    past = mix(past, input);
                    *self.at(slice.blocks, position) = Some((input, past));
                    position += 1;
                    if slice.scores == Wanted::All {
                        every.extend(scores(past));
                    }
                }
            }
            assert_eq!(position, slice.positions.end);
            rows += slice.positions.len();
            all.push(match slice.scores {
                Wanted::None => Given::Nothing,
                Wanted::Likeliest => Given::Token(found(past, Wish::Likeliest).0),
                Wanted::Draw { .. } | Wanted::Top { .. } if self.gives_all => Given::Scores(scores(past).collect()),
                Wanted::Draw { temperature, number } => {
                    self.spared += 1;
                    Given::Token(found(past, Wish::Draw { temperature, number }).0)
                }
                Wanted::Top { temperature } => {
                    self.spared += 1;
                    self.kept[index] = Some(scores(past).collect());
                    Given::Top(found(past, Wish::Top { temperature }).1)
                }
                Wanted::Last => Given::Scores(scores(past).collect()),
                Wanted::All => Given::Scores(every),
            });
        }
        self.largest_step = self.largest_step.max(rows);
        self.computed += rows;
        Ok(FakeScores(all))
    }

    fn scores(&mut self, slice: usize) -> Result<Vec<f32>, RunError> {
        self.asked_again += 1;
        Ok(self.kept[slice].take().expect("it got the largest scores, and asks once"))
    }
}
