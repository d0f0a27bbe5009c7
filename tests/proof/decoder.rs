//! Sequences of one length that are decoded together.

use std::time::Duration;

use tessera_model::{BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, Logits, ModelError, Phase, StepLogits};

use super::weights::Random;

/// Rows of a prompt that are computed at once.
const CHUNK: usize = 2048;

pub(crate) struct Decoder<'a> {
    sequences: Sequences<'a>,
    pool: KvPool,
}

struct Sequences<'a> {
    model: &'a LanguageModel,
    /// The blocks of each sequence.
    tables: Vec<Vec<u32>>,
    /// Positions that each has.
    length: usize,
    /// The last token of each.
    last: Vec<u32>,
}

impl<'a> Decoder<'a> {
    /// Sequences with room for this many positions. Their blocks lie mixed, as they do after a while of serving.
    pub(crate) fn new(model: &'a LanguageModel, sequences: usize, room: usize) -> Result<Self, ModelError> {
        let blocks = room.div_ceil(BLOCK_POSITIONS);
        let table = |sequence: usize| (0..blocks).map(|block| (block * sequences + sequence) as u32).collect();
        let pool = model.new_pool(blocks * sequences)?;
        let tables = (0..sequences).map(table).collect();
        Ok(Self { sequences: Sequences { model, tables, length: 0, last: vec![1; sequences] }, pool })
    }

    /// Gives every sequence random tokens up to this length.
    pub(crate) fn fill(&mut self, length: usize) -> Result<(), ModelError> {
        let Self { sequences: Sequences { model, tables, length: start, .. }, pool } = self;
        let mut random = Random::seeded("prompts");
        let vocabulary = model.config().vocab_size as u64;
        for table in &*tables {
            let ids: Vec<u32> = (*start..length).map(|_| (random.bits() % vocabulary) as u32).collect();
            let mut start = *start;
            for ids in ids.chunks(CHUNK) {
                let chunk = Chunk { blocks: table, start, inputs: vec![Input::Tokens(ids)], logits: Logits::None };
                model.forward(pool, &[chunk])?;
                start += ids.len();
            }
        }
        *start = length;
        Ok(())
    }

    /// Decodes a token of every sequence: the one that comes back, or the same again where none does.
    pub(crate) fn step(&mut self, logits: Logits) -> Result<(), ModelError> {
        self.sequences.step(&mut self.pool, logits)
    }

    /// What the next step gives, which stays the next one.
    pub(crate) fn look(&mut self, logits: Logits) -> Result<StepLogits, ModelError> {
        self.sequences.run(&mut self.pool, logits)
    }

    /// Decodes a token of every sequence and returns where the time went.
    pub(crate) fn timed_step(&mut self, logits: Logits) -> Result<Vec<(Phase, Duration)>, ModelError> {
        let Self { sequences, pool } = self;
        Ok(pool.time_phases(|pool| sequences.step(pool, logits))?.1)
    }

    /// Takes all positions of every sequence behind this length back.
    pub(crate) fn back_to(&mut self, length: usize) {
        self.sequences.length = self.sequences.length.min(length);
    }

    /// Takes the last position of every sequence back, so that the next step runs at the same place.
    pub(crate) fn back(&mut self) {
        self.sequences.length -= 1;
    }
}

impl Sequences<'_> {
    fn run(&self, pool: &mut KvPool, logits: Logits) -> Result<StepLogits, ModelError> {
        let start = self.length;
        let inputs = self.last.chunks(1).map(|token| vec![Input::Tokens(token)]);
        let pairs = self.tables.iter().zip(inputs);
        let batch: Vec<Chunk<'_>> = pairs.map(|(blocks, inputs)| Chunk { blocks, start, inputs, logits }).collect();
        self.model.forward(pool, &batch)
    }

    fn step(&mut self, pool: &mut KvPool, logits: Logits) -> Result<(), ModelError> {
        let step = self.run(pool, logits)?;
        for (sequence, last) in self.last.iter_mut().enumerate() {
            *last = step.token(sequence).unwrap_or(*last);
        }
        self.length += 1;
        Ok(())
    }
}
