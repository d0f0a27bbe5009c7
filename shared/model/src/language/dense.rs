//! A step the dense way: all that the host knows of it goes to the device in one copy, and nothing comes back before its
//! result.

use std::ops::Range;

use candle_core::Tensor;
use tessera_kernels::Wish;

use super::{
    LanguageModel, Part,
    batch::{Chunk, Layout, Logits, StepLogits, Wanted},
    decode::{self, Pace, Program, Programs},
    rows::Sources,
};
use crate::{
    KvPool, ModelError,
    attention::{DenseRows, Head, Packed, Room, Rows, Span, attends_together},
    device::{Answers, Device, Phase, Results, kernels},
    layers::Matrix,
};

/// The scores of a step, kept for chunks to which only the largest were told.
pub(crate) struct Kept {
    results: Results,
    /// The row of each chunk that may ask.
    rows: Vec<Option<usize>>,
}

impl LanguageModel {
    pub(super) fn forward_dense(
        &self,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
    ) -> Result<StepLogits, ModelError> {
        pool.kept = None;
        pool.finish_copies()?;
        let wanted = layout.wanted_rows(batch, Logits::wish);
        let Matrix::Dense(embeddings) = &self.embeddings else { return Err(ModelError::Pool) };
        let sources = Sources::new(embeddings, batch, &self.first().device)?;
        match decode::room(batch, layout) {
            Some(room) => self.decode(pool, layout, &wanted, &sources, room),
            None => self.step(pool, layout, &wanted, &sources),
        }
    }

    /// Returns the scores of a chunk of which the last step told the largest.
    pub(super) fn kept_scores(&self, pool: &KvPool, chunk: usize) -> Result<Vec<f32>, ModelError> {
        let row = |kept: &Kept| kept.rows.get(chunk).copied().flatten();
        match pool.kept.as_ref().and_then(|kept| Some((kept, row(kept)?))) {
            Some((kept, row)) => kept.results.scores(&self.last().device, row),
            None => {
                Err(ModelError::Chunk { index: chunk, problem: "got no largest scores in the last step".to_owned() })
            }
        }
    }

    /// Any batch.
    fn step(
        &self,
        pool: &mut KvPool,
        layout: &Layout<'_>,
        wanted: &Wanted,
        sources: &Sources<'_>,
    ) -> Result<StepLogits, ModelError> {
        let (device, vocabulary) = (&self.last().device, self.config.vocab_size);
        let (head_dim, window) = (self.config.head_dim, self.config.sliding_window);
        let together = |span: &Span<'_>| attends_together(device, head_dim, window, span);
        let head = Head { rows: &wanted.rows, wishes: &wanted.wishes };
        let packed = Packed::new(&layout.spans, &sources.addresses, head, together, Room::default());
        pool.enter(Phase::Copies, &self.first().device)?;
        let rows = self.parts.iter().map(|part| DenseRows::new(&part.device, &packed));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let mut hidden: Option<Tensor> = None;
        for (part, rows) in self.parts.iter().zip(&rows) {
            let arrived = hidden.map(|hidden| part.device.hand_over(&hidden)).transpose()?;
            hidden = Some(self.layers(part, pool, rows, arrived, sources)?);
        }
        let (Some(hidden), Some(rows), false) = (hidden, rows.last(), wanted.rows.is_empty()) else {
            return Ok(StepLogits::new(wanted, vocabulary, Answers::default()));
        };
        // The head runs only over the rows that are asked for.
        let results = Results::room(device, wanted.rows.len(), vocabulary)?;
        self.choose(pool, &hidden.index_select(&rows.wanted()?, 0)?, rows, &results)?;
        self.read(pool, wanted, &results)
    }

    /// A batch of one row a sequence.
    fn decode(
        &self,
        pool: &mut KvPool,
        layout: &Layout<'_>,
        wanted: &Wanted,
        sources: &Sources<'_>,
        room: Room,
    ) -> Result<StepLogits, ModelError> {
        // Rows stand in the order in which their results are read.
        let spans: Vec<Span<'_>> = wanted.rows.iter().map(|chunk| layout.spans[*chunk as usize].clone()).collect();
        let head = Head { rows: &[], wishes: &wanted.wishes };
        let packed = Packed::new(&spans, &sources.addresses, head, |_| false, room);
        let devices: Vec<&Device> = self.parts.iter().map(|part| &part.device).collect();
        // What the pool keeps is taken out while its memory is written.
        let mut programs = std::mem::take(&mut pool.programs);
        let results = programs.take(packed.extents, &self.config, &devices).and_then(|mut program| {
            self.run(&mut programs, &mut program, pool, &packed, sources)?;
            let results = self.read(pool, wanted, &program.results);
            programs.keep(program);
            results
        });
        pool.programs = programs;
        results
    }

    /// Runs a decode step, device by device.
    fn run(
        &self,
        programs: &mut Programs,
        program: &mut Program,
        pool: &mut KvPool,
        packed: &Packed,
        sources: &Sources<'_>,
    ) -> Result<(), ModelError> {
        let Program { stages, results, .. } = program;
        let mut before: Option<Tensor> = None;
        for (part, stage) in self.parts.iter().zip(stages) {
            let device = &part.device;
            pool.enter(Phase::Copies, device)?;
            stage.rows.write(device, packed)?;
            if let (Some(arrived), Some(before)) = (&stage.arrived, before) {
                arrived.slice_set(&device.hand_over(&before)?, 0, 0)?;
            }
            let pace = if pool.is_timed() { Pace::Singly } else { Pace::AtOnce };
            programs.run(stage, device, pace, |stage| {
                let hidden = self.layers(part, pool, &stage.rows, stage.arrived.clone(), sources)?;
                match &stage.left {
                    Some(left) => Ok(left.slice_set(&hidden, 0, 0)?),
                    None => self.choose(pool, &hidden, &stage.rows, results),
                }
            })?;
            before = stage.left.clone();
        }
        Ok(())
    }

    /// Reads what a step gave, as far as it is wanted, and keeps the rest while somebody may ask for it.
    fn read(&self, pool: &mut KvPool, wanted: &Wanted, results: &Results) -> Result<StepLogits, ModelError> {
        let (counts, vocabulary) = (wanted.counts(), self.config.vocab_size);
        let device = &self.last().device;
        pool.enter(Phase::Copies, device)?;
        let answers = results.read(device, counts)?;
        pool.leave(device)?;
        if counts.topped > 0 {
            let row = |(wish, rows): &(Wish, Range<usize>)| matches!(wish, Wish::Top { .. }).then_some(rows.start);
            pool.kept = Some(Kept { results: results.clone(), rows: wanted.chunks.iter().map(row).collect() });
        }
        Ok(StepLogits::new(wanted, vocabulary, answers))
    }

    /// The layers of a device, from the rows' embeddings on if it is the first: `[rows, hidden_size]`.
    ///
    /// arrived: what the device before it gave
    fn layers(
        &self,
        part: &Part,
        pool: &mut KvPool,
        rows: &DenseRows,
        arrived: Option<Tensor>,
        sources: &Sources<'_>,
    ) -> Result<Tensor, ModelError> {
        let Part { device, layers, blocks, rope } = part;
        pool.enter(Phase::Embedding, device)?;
        let mut hidden = match arrived {
            Some(arrived) => arrived,
            None => kernels::gather(device, &rows.sources()?, &sources.origins, self.config.hidden_size)?,
        };
        for (layer, block) in layers.clone().zip(blocks) {
            hidden = block.forward(&hidden, layer, pool, Rows::Dense(rows), rope)?;
        }
        pool.leave(device)?;
        Ok(hidden)
    }

    /// Finds in the scores of rows what is wished for.
    ///
    /// hidden: `[rows, hidden_size]`
    fn choose(
        &self,
        pool: &mut KvPool,
        hidden: &Tensor,
        rows: &DenseRows,
        results: &Results,
    ) -> Result<(), ModelError> {
        let device = &self.last().device;
        pool.enter(Phase::Head, device)?;
        let scores = self.head.forward(&self.norm.forward(hidden)?)?;
        pool.enter(Phase::Choice, device)?;
        results.choose(device, &scores, &rows.wishes()?)
    }
}
