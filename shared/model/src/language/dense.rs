//! A step the dense way: all that the host knows of it goes to the device in one copy, and nothing comes back before its
//! result.

use candle_core::Tensor;

use super::{
    LanguageModel, Part,
    batch::{Chunk, Layout, Logits, StepLogits, Wanted},
    decode::{self, Program, Programs},
    rows::Sources,
};
use crate::{
    KvPool, ModelError,
    attention::{DenseRows, Packed, Room, Rows, Span, attends_together},
    device::{Device, kernels},
    layers::Matrix,
};

impl LanguageModel {
    pub(super) fn forward_dense(
        &self,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
    ) -> Result<StepLogits, ModelError> {
        pool.finish_copies()?;
        let Matrix::Dense(embeddings) = &self.embeddings else { return Err(ModelError::Pool) };
        let sources = Sources::new(embeddings, batch, &self.first().device)?;
        match decode::room(batch, layout) {
            Some(room) => self.decode(pool, batch, layout, &sources, room),
            None => self.step(pool, batch, layout, &sources),
        }
    }

    /// Any batch.
    fn step(
        &self,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
        sources: &Sources<'_>,
    ) -> Result<StepLogits, ModelError> {
        let (device, vocabulary) = (&self.last().device, self.config.vocab_size);
        let Wanted { rows: wanted, scored } = layout.wanted_rows(batch);
        let (head_dim, window) = (self.config.head_dim, self.config.sliding_window);
        let together = |span: &Span<'_>| attends_together(device, head_dim, window, span);
        let packed = Packed::new(&layout.spans, &sources.addresses, &wanted, together, Room::default());
        let rows = self.parts.iter().map(|part| DenseRows::new(&part.device, &packed));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let mut hidden: Option<Tensor> = None;
        for (part, rows) in self.parts.iter().zip(&rows) {
            let arrived = hidden.map(|hidden| part.device.hand_over(&hidden)).transpose()?;
            hidden = Some(self.layers(part, pool, rows, arrived, sources)?);
        }
        let (Some(hidden), Some(rows), false) = (hidden, rows.last(), wanted.is_empty()) else {
            return Ok(StepLogits::new(batch, vocabulary, Vec::new(), None));
        };
        // The head runs only over the rows that are asked for.
        let scores = self.scores(&hidden.index_select(&rows.wanted()?, 0)?)?;
        let greedy = wanted.len() - scored;
        let likeliest = match greedy {
            0 => Vec::new(),
            _ => kernels::argmax(device, &scores.narrow(0, scored, greedy)?)?.to_vec1()?,
        };
        let scores = if scored == 0 { Vec::new() } else { device.values(&scores.narrow(0, 0, scored)?)? };
        Ok(StepLogits::new(batch, vocabulary, scores, likeliest.into_iter().map(token)))
    }

    /// A batch of one row a sequence.
    fn decode(
        &self,
        pool: &mut KvPool,
        batch: &[Chunk<'_>],
        layout: &Layout<'_>,
        sources: &Sources<'_>,
        room: Room,
    ) -> Result<StepLogits, ModelError> {
        let packed = Packed::new(&layout.spans, &sources.addresses, &[], |_| false, room);
        let devices: Vec<&Device> = self.parts.iter().map(|part| &part.device).collect();
        // What the pool keeps is taken out while its memory is written.
        let mut programs = std::mem::take(&mut pool.programs);
        let results = programs.take(packed.extents, &self.config, &devices).and_then(|mut program| {
            self.run(&mut programs, &mut program, pool, &packed, sources)?;
            let results = self.read(&program, batch);
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
        let Program { stages, outputs, .. } = program;
        let mut before: Option<Tensor> = None;
        for (part, stage) in self.parts.iter().zip(stages) {
            let device = &part.device;
            stage.rows.write(device, packed)?;
            if let (Some(arrived), Some(before)) = (&stage.arrived, before) {
                arrived.slice_set(&device.hand_over(&before)?, 0, 0)?;
            }
            programs.run(stage, device, |stage| {
                let hidden = self.layers(part, pool, &stage.rows, stage.arrived.clone(), sources)?;
                if let Some(left) = &stage.left {
                    return Ok(left.slice_set(&hidden, 0, 0)?);
                }
                let scores = self.scores(&hidden)?;
                outputs.likeliest.slice_set(&kernels::argmax(device, &scores)?, 0, 0)?;
                Ok(outputs.logits.slice_set(&scores, 0, 0)?)
            })?;
            before = stage.left.clone();
        }
        Ok(())
    }

    /// Reads what a decode step gave, as far as it is wanted.
    fn read(&self, program: &Program, batch: &[Chunk<'_>]) -> Result<StepLogits, ModelError> {
        let vocabulary = self.config.vocab_size;
        let scored = |chunk: &Chunk<'_>| chunk.logits != Logits::Likeliest;
        let count = batch.iter().filter(|chunk| scored(chunk)).count();
        let mut scores = Vec::new();
        if count > 0 {
            scores = self.last().device.values(&program.outputs.logits.narrow(0, 0, batch.len())?)?;
        }
        let mut likeliest = Vec::new();
        if count < batch.len() {
            likeliest = program.outputs.likeliest.to_vec1()?;
            scores = of_some(batch, scored, &scores, vocabulary);
        }
        let likeliest = batch.iter().zip(likeliest).filter(|(chunk, _)| !scored(chunk)).map(|(_, id)| token(id));
        Ok(StepLogits::new(batch, vocabulary, scores, likeliest))
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
        let mut hidden = match arrived {
            Some(arrived) => arrived,
            None => kernels::gather(device, &rows.sources()?, &sources.origins, self.config.hidden_size)?,
        };
        for (layer, block) in layers.clone().zip(blocks) {
            hidden = block.forward(&hidden, layer, pool, Rows::Dense(rows), rope)?;
        }
        Ok(hidden)
    }

    /// hidden: `[rows, hidden_size]`; result: `[rows, vocabulary]`
    fn scores(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.head.forward(&self.norm.forward(hidden)?)
    }
}

/// The kernel's answer.
fn token(id: u32) -> Option<u32> {
    (id != tessera_kernels::NONE).then_some(id)
}

/// The scores of some of the chunks, each of which has one row.
fn of_some(batch: &[Chunk<'_>], some: impl Fn(&Chunk<'_>) -> bool, scores: &[f32], vocabulary: usize) -> Vec<f32> {
    let rows = batch.iter().zip(scores.chunks_exact(vocabulary)).filter(|(chunk, _)| some(chunk));
    rows.flat_map(|(_, row)| row.iter().copied()).collect()
}
