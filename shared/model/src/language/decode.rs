//! Decode steps: a row for each of some sequences, all of which go through the head.
//!
//! Their number, and that of the parts in which they attend, are rounded up, and what is read and written from outside
//! stays where it is. So there are few different programs, and a GPU is given each of them as one piece of work that it
//! recorded before: its launches cost more time than they take otherwise. What rounding adds is padding, which changes
//! no row's result.

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;
use tessera_kernels::splits;

use super::batch::{Chunk, Layout, Logits};
use crate::{
    ModelError,
    attention::{DenseRows, Extents, Room},
    device::{Device, Graph, Results},
};

/// Batches of more rows are not rounded up: what a launch costs is little beside what they compute.
const MOST_ROWS: usize = 256;
/// Programs that are kept. The one that was not used for longest goes first.
const MOST_PROGRAMS: usize = 48;

/// What decode steps are rounded up to, if it is one: a single row a sequence, its logits wanted.
pub(super) fn room(batch: &[Chunk<'_>], layout: &Layout<'_>) -> Option<Room> {
    let decodes = |chunk: &Chunk<'_>| !matches!(chunk.logits, Logits::None | Logits::All);
    let rows = layout.positions.len();
    if rows != batch.len() || rows > MOST_ROWS || !batch.iter().all(decodes) {
        return None;
    }
    let longest = layout.positions.iter().max().map(|position| *position as usize + 1)?;
    Some(Room { rows: rounded(rows), splits: splits(longest).next_power_of_two() })
}

/// Up to 8 the next power of two, up to 64 the next multiple of 8, then of 32: always less than half is padding.
fn rounded(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(32),
    }
}

/// The programs of a pool.
#[derive(Default)]
pub(crate) struct Programs {
    /// The one that was used last is last.
    kept: Vec<Program>,
    /// Where all programs write what they give, for it is read before another one runs.
    results: Option<Results>,
    /// Recording failed once; it is not tried again.
    given_up: bool,
}

/// A decode step of some extents, and what it reads and writes.
pub(super) struct Program {
    extents: Extents,
    /// The work of each device, in order.
    pub(super) stages: Vec<Stage>,
    pub(super) results: Results,
}

/// How a device is given its work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As one piece where it was recorded.
    AtOnce,
    /// Piece by piece, to be timed.
    Singly,
}

/// The work of one device.
pub(super) struct Stage {
    pub(super) rows: DenseRows,
    /// `[rows, hidden_size]`: what the device before it gave. The first one begins with embeddings.
    pub(super) arrived: Option<Tensor>,
    /// `[rows, hidden_size]`: what the next one is given. The last one ends with logits.
    pub(super) left: Option<Tensor>,
    state: State,
}

enum State {
    /// It never ran: the library and the driver still make ready what it needs.
    New,
    Ran,
    Recorded(Graph),
}

impl Stage {
    fn new(
        device: &Device,
        extents: Extents,
        hidden_size: usize,
        (first, last): (bool, bool),
    ) -> Result<Self, ModelError> {
        let hidden = |not_needed: bool| (!not_needed).then(|| device.room(&[extents.rows, hidden_size])).transpose();
        let (arrived, left) = (hidden(first)?, hidden(last)?);
        Ok(Self { rows: DenseRows::room(device, extents)?, arrived, left, state: State::New })
    }
}

impl Programs {
    /// Takes the program of these extents out, or makes it.
    pub(super) fn take(
        &mut self,
        extents: Extents,
        config: &TextConfig,
        devices: &[&Device],
    ) -> Result<Program, ModelError> {
        if let Some(index) = self.kept.iter().position(|program| program.extents == extents) {
            return Ok(self.kept.remove(index));
        }
        let last = devices.len() - 1;
        let stage = |(index, device): (usize, &&Device)| {
            Stage::new(device, extents, config.hidden_size, (index == 0, index == last))
        };
        Ok(Program {
            extents,
            stages: devices.iter().enumerate().map(stage).collect::<Result<_, _>>()?,
            results: self.results(devices[last], config.vocab_size)?.with_rows(extents.rows),
        })
    }

    /// Room for what the most rows give.
    fn results(&mut self, device: &Device, vocabulary: usize) -> Result<&Results, ModelError> {
        match &mut self.results {
            Some(results) => Ok(results),
            none => Ok(none.insert(Results::room(device, MOST_ROWS, vocabulary)?)),
        }
    }

    /// Keeps a program that ran.
    pub(super) fn keep(&mut self, program: Program) {
        if self.kept.len() == MOST_PROGRAMS {
            self.kept.remove(0);
        }
        self.kept.push(program);
    }

    /// Runs `steps`, the work of a device: as it was recorded, or, the first time and where nothing is recorded or `pace` says so, one
    /// after the other.
    pub(super) fn run(
        &mut self,
        stage: &mut Stage,
        device: &Device,
        pace: Pace,
        mut steps: impl FnMut(&Stage) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if pace == Pace::Singly {
            return steps(stage);
        }
        if let (State::Ran, Some(gpu), false) = (&stage.state, device.gpu(), self.given_up) {
            match gpu.record(|| steps(stage)) {
                Ok(graph) => stage.state = State::Recorded(graph),
                Err(error) => {
                    self.given_up = true;
                    tracing::warn!(device = %device.name(), %error, "decode steps are not recorded, each is launched anew");
                }
            }
        }
        if let State::Recorded(graph) = &stage.state {
            return graph.launch();
        }
        steps(stage)?;
        stage.state = State::Ran;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_up_to_few_numbers() {
        let mut rounded: Vec<usize> = (1..=MOST_ROWS)
            .map(|rows| {
                assert!(rounded(rows) >= rows && 2 * rows > rounded(rows));
                rounded(rows)
            })
            .collect();
        rounded.dedup();
        assert_eq!(rounded, [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 160, 192, 224, 256]);
    }
}
