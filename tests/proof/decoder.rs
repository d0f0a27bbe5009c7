//! Sequences of one length that are decoded together.

use tessera_model::{BLOCK_POSITIONS, Chunk, Input, KvPool, LanguageModel, Logits, ModelError};

use super::weights::Random;

/// Rows of a prompt that are computed at once.
const CHUNK: usize = 2048;

pub(crate) struct Decoder<'a> {
    model: &'a LanguageModel,
    pool: KvPool,
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
        Ok(Self { model, pool, tables, length: 0, last: vec![1; sequences] })
    }

    /// Gives every sequence random tokens up to this length.
    pub(crate) fn fill(&mut self, length: usize) -> Result<(), ModelError> {
        let mut random = Random::seeded("prompts");
        let vocabulary = self.model.config().vocab_size as u64;
        for table in &self.tables {
            let ids: Vec<u32> = (self.length..length).map(|_| (random.bits() % vocabulary) as u32).collect();
            let mut start = self.length;
            for ids in ids.chunks(CHUNK) {
                let chunk = Chunk { blocks: table, start, inputs: vec![Input::Tokens(ids)], logits: Logits::None };
                self.model.forward(&mut self.pool, &[chunk])?;
                start += ids.len();
            }
        }
        self.length = length;
        Ok(())
    }

    /// Decodes a token of every sequence, or only runs its row.
    pub(crate) fn step(&mut self, logits: Logits) -> Result<(), ModelError> {
        let (start, last) = (self.length, self.last.clone());
        let inputs = last.chunks(1).map(|token| vec![Input::Tokens(token)]);
        let pairs = self.tables.iter().zip(inputs);
        let batch: Vec<Chunk<'_>> = pairs.map(|(blocks, inputs)| Chunk { blocks, start, inputs, logits }).collect();
        let step = self.model.forward(&mut self.pool, &batch)?;
        for (sequence, last) in self.last.iter_mut().enumerate() {
            *last = step.likeliest(sequence).unwrap_or(*last);
        }
        self.length += 1;
        Ok(())
    }

    /// Takes the last position of every sequence back, so that the next step runs at the same place.
    pub(crate) fn back(&mut self) {
        self.length -= 1;
    }
}
