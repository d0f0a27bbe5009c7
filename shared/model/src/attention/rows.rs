//! The rows of a step as the kernels are told about them: one list of words, which goes to a device in one copy.

use std::ops::Range;

use candle_core::{DType as CandleType, Tensor};
use tessera_kernels::{NONE, SPLIT_POSITIONS, Wish, splits};

use super::{BLOCK_POSITIONS, Span};
use crate::{ModelError, device::Device};

/// Blocks that hold the positions of one part of attention.
const BLOCKS_A_SPLIT: usize = SPLIT_POSITIONS / BLOCK_POSITIONS;

/// How much there is of everything. It says where in the words each list stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Extents {
    /// All rows, padding included.
    pub(crate) rows: usize,
    /// The first so many rows attend each for itself.
    pub(crate) single: usize,
    /// Sequences, each with a table of its blocks, and room for more.
    pub(crate) tables: usize,
    pub(crate) table_width: usize,
    /// Parts in which a single row's positions are attended to.
    pub(crate) splits: usize,
    /// Sequences whose rows attend together: the last ones, and their rows are behind all single ones.
    pub(crate) prompts: usize,
    /// The most rows of a prompt, and the most positions that its last row sees.
    pub(crate) longest_prompt: usize,
    pub(crate) longest_context: usize,
    /// Rows that are picked to go through the head.
    pub(crate) wanted: usize,
    /// Rows that go through the head, padding included.
    pub(crate) wishes: usize,
}

/// What is told of the rows that go through the head.
#[derive(Clone, Copy, Default)]
pub(crate) struct Head<'a> {
    /// Which of the batch they are; none where all do.
    pub(crate) rows: &'a [u32],
    /// What each of them gives.
    pub(crate) wishes: &'a [Wish],
}

/// At least so many rows and parts are made room for; what is too much is padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    pub(crate) splits: usize,
}

/// What is told of a step's rows.
pub(crate) struct Packed {
    pub(crate) words: Vec<u32>,
    pub(crate) extents: Extents,
}

/// The lists, in the order in which they stand.
#[derive(Clone, Copy)]
enum List {
    /// Halves of addresses, which are aligned because they are in front.
    Sources,
    Positions,
    Slots,
    TableOf,
    Lengths,
    Tables,
    QueryStarts,
    KeyStarts,
    Wanted,
    Wishes,
}

impl Extents {
    /// The length of each list.
    fn lengths(&self) -> [usize; 10] {
        let Self { rows, single, tables, table_width, prompts, wanted, wishes, .. } = *self;
        let starts = if prompts > 0 { prompts + 1 } else { 0 };
        [2 * rows, rows, rows, single, single, tables * table_width, starts, starts, wanted, wishes * Wish::WORDS]
    }

    /// The number of words.
    pub(crate) fn words(&self) -> usize {
        self.lengths().iter().sum()
    }

    fn range(&self, list: List) -> Range<usize> {
        let lengths = self.lengths();
        let start = lengths[..list as usize].iter().sum();
        start..start + lengths[list as usize]
    }
}

impl Packed {
    /// Packs the rows of a flat batch.
    ///
    /// sources: where each row's embedding is; together: whether the rows of a span attend together. Where there are such, there
    /// is no padding.
    pub(crate) fn new(
        spans: &[Span<'_>],
        sources: &[u64],
        head: Head<'_>,
        together: impl Fn(&Span<'_>) -> bool,
        room: Room,
    ) -> Self {
        let (prompts, singles): (Vec<&Span<'_>>, Vec<&Span<'_>>) = spans.iter().partition(|span| together(span));
        let count = |spans: &[&Span<'_>]| spans.iter().map(|span| span.rows.len()).sum::<usize>();
        let end = |span: &&Span<'_>| span.start + span.rows.len();
        let longest = |spans: &[&Span<'_>]| spans.iter().map(end).max().unwrap_or(0);
        let single = count(&singles).max(room.rows);
        let splits = splits(longest(&singles)).max(room.splits);
        let blocks = longest(&singles).max(longest(&prompts)).div_ceil(BLOCK_POSITIONS);
        let extents = Extents {
            rows: single + count(&prompts),
            single,
            tables: spans.len().max(room.rows),
            table_width: blocks.max(room.splits * BLOCKS_A_SPLIT),
            splits,
            prompts: prompts.len(),
            longest_prompt: prompts.iter().map(|span| span.rows.len()).max().unwrap_or(0),
            longest_context: longest(&prompts),
            wanted: head.rows.len(),
            wishes: head.wishes.len().max(room.rows),
        };
        let mut packed = Self { words: vec![0; extents.words()], extents };
        // Padding reads a row that there is, and neither writes nor attends.
        packed.list(List::Slots).fill(NONE);
        if let Some(source) = sources.first() {
            packed.list(List::Sources).as_chunks_mut().0.fill(halves(*source));
        }
        let mut places = vec![0; sources.len()];
        let mut row = 0;
        for (table, span) in singles.iter().chain(&prompts).enumerate() {
            packed.write_span(span, table, row, sources);
            places[span.rows.clone()].iter_mut().zip(row..).for_each(|(place, row)| *place = row as u32);
            row += span.rows.len();
        }
        packed.write_starts(&prompts);
        packed.list(List::Wanted).iter_mut().zip(head.rows).for_each(|(to, row)| *to = places[*row as usize]);
        // For rows of padding nothing is wished, which is 0.
        let wishes = packed.list(List::Wishes).as_chunks_mut().0;
        wishes.iter_mut().zip(head.wishes).for_each(|(to, wish)| *to = wish.words());
        packed
    }

    /// Writes what is told of a span whose rows stand from `row` on.
    fn write_span(&mut self, span: &Span<'_>, table: usize, row: usize, sources: &[u64]) {
        let (single, width) = (self.extents.single, self.extents.table_width);
        let blocks = (span.start + span.rows.len()).div_ceil(BLOCK_POSITIONS);
        self.list(List::Tables)[table * width..][..blocks].copy_from_slice(&span.table[..blocks]);
        for ((row, position), source) in (row..).zip(span.start..).zip(&sources[span.rows.clone()]) {
            self.list(List::Sources)[2 * row..][..2].copy_from_slice(&halves(*source));
            self.list(List::Positions)[row] = position as u32;
            let (block, place) = (span.table[position / BLOCK_POSITIONS], position % BLOCK_POSITIONS);
            self.list(List::Slots)[row] = block * BLOCK_POSITIONS as u32 + place as u32;
            if row < single {
                self.list(List::TableOf)[row] = table as u32;
                self.list(List::Lengths)[row] = position as u32 + 1;
            }
        }
    }

    /// Writes where the queries of each prompt begin, and how long it is with all that is in front of it: both as sums.
    fn write_starts(&mut self, prompts: &[&Span<'_>]) {
        let (mut query, mut key) = (0, 0);
        for (index, span) in prompts.iter().enumerate() {
            query += span.rows.len();
            key += span.start + span.rows.len();
            self.list(List::QueryStarts)[index + 1] = query as u32;
            self.list(List::KeyStarts)[index + 1] = key as u32;
        }
    }

    fn list(&mut self, list: List) -> &mut [u32] {
        let range = self.extents.range(list);
        &mut self.words[range]
    }
}

/// The halves of an address, the lower one first.
fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

/// The rows of a step on a device.
pub(crate) struct DenseRows {
    /// u32
    words: Tensor,
    pub(crate) extents: Extents,
}

impl DenseRows {
    /// Brings them to a device.
    pub(crate) fn new(device: &Device, packed: &Packed) -> Result<Self, ModelError> {
        let rows = Self::room(device, packed.extents)?;
        rows.write(device, packed)?;
        Ok(rows)
    }

    /// Makes room for as many.
    pub(crate) fn room(device: &Device, extents: Extents) -> Result<Self, ModelError> {
        Ok(Self { words: device.room_of(&[extents.words()], CandleType::U32)?, extents })
    }

    /// Writes others of the same extents over these.
    pub(crate) fn write(&self, device: &Device, packed: &Packed) -> Result<(), ModelError> {
        device.write_words(&packed.words, &self.words)
    }

    /// `[2 * rows]`: halves of addresses
    pub(crate) fn sources(&self) -> Result<Tensor, ModelError> {
        self.list(List::Sources)
    }

    /// `[rows]`
    pub(crate) fn positions(&self) -> Result<Tensor, ModelError> {
        self.list(List::Positions)
    }

    /// `[rows]`: where keys and values go
    pub(crate) fn slots(&self) -> Result<Tensor, ModelError> {
        self.list(List::Slots)
    }

    /// `[count]`: the tables of some single rows
    pub(crate) fn table_of(&self, rows: &Range<usize>) -> Result<Tensor, ModelError> {
        Ok(self.list(List::TableOf)?.narrow(0, rows.start, rows.len())?)
    }

    /// `[count]`: how many positions some single rows see
    pub(crate) fn lengths(&self, rows: &Range<usize>) -> Result<Tensor, ModelError> {
        Ok(self.list(List::Lengths)?.narrow(0, rows.start, rows.len())?)
    }

    /// `[tables, table_width]`
    pub(crate) fn tables(&self) -> Result<Tensor, ModelError> {
        Ok(self.list(List::Tables)?.reshape((self.extents.tables, self.extents.table_width))?)
    }

    /// `[prompts, table_width]`
    pub(crate) fn prompt_tables(&self) -> Result<Tensor, ModelError> {
        let Extents { tables, prompts, .. } = self.extents;
        Ok(self.tables()?.narrow(0, tables - prompts, prompts)?)
    }

    /// `[prompts + 1]`: where the queries of each prompt begin
    pub(crate) fn query_starts(&self) -> Result<Tensor, ModelError> {
        self.list(List::QueryStarts)
    }

    /// `[prompts + 1]`: where its keys would begin if they stood one after the other
    pub(crate) fn key_starts(&self) -> Result<Tensor, ModelError> {
        self.list(List::KeyStarts)
    }

    /// `[wanted]`
    pub(crate) fn wanted(&self) -> Result<Tensor, ModelError> {
        self.list(List::Wanted)
    }

    /// `[wishes * 4]`: what is to be found in the scores of each row
    pub(crate) fn wishes(&self) -> Result<Tensor, ModelError> {
        self.list(List::Wishes)
    }

    fn list(&self, list: List) -> Result<Tensor, ModelError> {
        let range = self.extents.range(list);
        Ok(self.words.narrow(0, range.start, range.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span<'a>(table: &'a [u32], start: usize, rows: Range<usize>) -> Span<'a> {
        Span { table, start, rows }
    }

    fn list(packed: &Packed, list: List) -> &[u32] {
        &packed.words[packed.extents.range(list)]
    }

    #[test]
    fn prompts_stand_behind_rows_that_attend_alone() {
        let (first, second, third) = ([7, 3], [4, 9, 1], [5]);
        // The middle one is a prompt of four rows from position 30 on.
        let spans = [span(&first, 33, 0..1), span(&second, 62, 1..5), span(&third, 2, 5..6)];
        let sources: Vec<u64> = (0..6).map(|row| (row << 32) + 100 + row).collect();
        let wishes = [Wish::Likeliest, Wish::Scores, Wish::Draw { temperature: 1.0, number: 0.0 }];
        let head = Head { rows: &[0, 4, 5], wishes: &wishes };
        let packed = Packed::new(&spans, &sources, head, |span| span.rows.len() > 1, Room::default());
        let expected = Extents {
            rows: 6,
            single: 2,
            tables: 3,
            table_width: 3,
            splits: 1,
            prompts: 1,
            longest_prompt: 4,
            longest_context: 66,
            wanted: 3,
            wishes: 3,
        };
        assert_eq!(packed.extents, expected);
        assert_eq!(list(&packed, List::Sources), [100, 0, 105, 5, 101, 1, 102, 2, 103, 3, 104, 4]);
        assert_eq!(list(&packed, List::Positions), [33, 2, 62, 63, 64, 65]);
        assert_eq!(list(&packed, List::Slots), [3 * 32 + 1, 5 * 32 + 2, 9 * 32 + 30, 9 * 32 + 31, 32, 33]);
        assert_eq!(list(&packed, List::TableOf), [0, 1]);
        assert_eq!(list(&packed, List::Lengths), [34, 3]);
        assert_eq!(list(&packed, List::Tables), [7, 3, 0, 5, 0, 0, 4, 9, 1]);
        assert_eq!((list(&packed, List::QueryStarts), list(&packed, List::KeyStarts)), (&[0, 4][..], &[0, 66][..]));
        assert_eq!(list(&packed, List::Wanted), [0, 5, 1]);
        assert_eq!(list(&packed, List::Wishes).as_chunks().0, wishes.map(Wish::words));
    }

    #[test]
    fn padding_neither_writes_nor_attends() {
        let (first, second) = ([7, 3], [4, 9]);
        let spans = [span(&first, 40, 0..1), span(&second, 31, 1..2)];
        let head = Head { rows: &[], wishes: &[Wish::Likeliest; 2] };
        let packed = Packed::new(&spans, &[11, 12], head, |_| false, Room { rows: 4, splits: 2 });
        let Extents { rows, single, tables, table_width, splits, .. } = packed.extents;
        assert_eq!((rows, single, tables, table_width, splits), (4, 4, 4, 4, 2));
        assert_eq!(list(&packed, List::Sources), [11, 0, 12, 0, 11, 0, 11, 0]);
        assert_eq!(list(&packed, List::Slots), [3 * 32 + 8, 4 * 32 + 31, NONE, NONE]);
        assert_eq!(list(&packed, List::Lengths), [41, 32, 0, 0]);
        assert_eq!(list(&packed, List::Tables)[..8], [7, 3, 0, 0, 4, 0, 0, 0]);
        let wishes = [Wish::Likeliest, Wish::Likeliest, Wish::Nothing, Wish::Nothing].map(Wish::words);
        assert_eq!(list(&packed, List::Wishes).as_chunks().0, wishes);
    }
}
