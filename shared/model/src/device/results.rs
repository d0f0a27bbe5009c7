//! What is found in a step's scores, and its way to the host: one copy, however much of it is wanted.

use candle_core::{DType as CandleType, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use tessera_kernels::{Element, Kind, TOP_WORDS, TopScores, Wish, launch, reference};

use super::{
    Device,
    access::{Number, read, write},
    kernels::{
        Argument::{Number as Extent, Tensor as Of},
        by_kind,
    },
};
use crate::ModelError;

/// Rows of scores, and those of the largest ones, begin at multiples of 16 bytes.
const WORDS_AT_ONCE: usize = 4;

/// Where a device writes what it finds in rows of scores: tokens, then the largest scores, then whole rows of scores, all in one
/// tensor of words. What is wanted is in front of what is not, so one copy brings it.
#[derive(Clone)]
pub(crate) struct Results {
    /// u32, at least as many as the rows need
    words: Tensor,
    places: Places,
}

/// Where it stands.
#[derive(Clone, Copy)]
struct Places {
    rows: usize,
    vocabulary: usize,
    kind: Kind,
}

/// How far results are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The scores of so many rows, the first ones.
    pub(crate) scored: usize,
    /// The largest scores of so many rows behind these.
    pub(crate) topped: usize,
}

/// Results on the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    /// Of every row, whether it wanted one or not.
    pub(crate) tokens: Vec<u32>,
    /// Of the rows that wanted them.
    pub(crate) top: Vec<TopScores>,
    /// `[scored, vocabulary]`
    pub(crate) scores: Vec<f32>,
}

impl Results {
    /// Makes room for what so many rows give.
    pub(crate) fn room(device: &Device, rows: usize, vocabulary: usize) -> Result<Self, ModelError> {
        let places = Places { rows, vocabulary, kind: device.kind() };
        Ok(Self { words: device.room_of(&[places.score_row(rows)], CandleType::U32)?, places })
    }

    /// The same room for no more rows than it was made for.
    pub(crate) fn with_rows(&self, rows: usize) -> Self {
        Self { words: self.words.clone(), places: Places { rows, ..self.places } }
    }

    /// Finds in rows of scores what is wished for.
    ///
    /// scores: `[rows, vocabulary]`; wishes: u32, `[rows, 4]`
    pub(crate) fn choose(&self, device: &Device, scores: &Tensor, wishes: &Tensor) -> Result<(), ModelError> {
        let places = self.places;
        let Places { rows, vocabulary, kind } = places;
        let Some(gpu) = device.gpu() else {
            return by_kind!(device, T => self.choose_here::<T>(scores, wishes));
        };
        let part = |start: usize, end: usize| self.words.narrow(0, start, end - start);
        let tokens = part(0, places.top_row(0))?;
        let top = part(places.top_row(0), places.top_row(rows))?;
        let kept = part(places.score_row(0), places.score_row(rows))?;
        let tensors = [&tokens, &top, &kept, scores, wishes].map(Of).into_iter();
        let arguments: Vec<_> = tensors.chain([rows, vocabulary, places.stride()].map(Extent)).collect();
        gpu.launch(launch::choose(kind, rows, vocabulary, places.stride())?, &arguments)
    }

    /// The same on the CPU.
    fn choose_here<T: Element + Number>(&self, scores: &Tensor, wishes: &Tensor) -> Result<(), ModelError> {
        let (scores, wishes) = (read::<T>(scores)?, read::<u32>(wishes)?);
        let wishes: Vec<Wish> =
            wishes.as_chunks().0.iter().map(|words| Wish::from_words(*words).unwrap_or_default()).collect();
        write::<u32>(&self.words, |words| {
            let (front, kept) = words.split_at_mut(self.places.score_row(0));
            let (tokens, top) = front.split_at_mut(self.places.top_row(0));
            let (kept, stride) = (bytemuck::cast_slice_mut::<u32, T>(kept), self.places.stride());
            let found = reference::Found { tokens, top, scores: kept, stride };
            reference::choose(found, &scores, &wishes, self.places.vocabulary);
        })
    }

    /// Brings what is wanted to the host, behind all that the device was given to do before.
    pub(crate) fn read(&self, device: &Device, wanted: Wanted) -> Result<Answers, ModelError> {
        let (Wanted { scored, topped }, places) = (wanted, self.places);
        let count = match (scored, topped) {
            (0, 0) => places.rows,
            (0, topped) => places.top_row(topped),
            (scored, _) => places.score_row(scored),
        };
        let words = device.read_words(&self.words, count)?;
        let from = |start: usize| words.get(start..).unwrap_or_default();
        Ok(Answers {
            tokens: words[..places.rows].to_vec(),
            top: from(places.top_row(scored)).chunks_exact(TOP_WORDS).take(topped).map(TopScores::read).collect(),
            scores: places.scores(from(places.score_row(0))),
        })
    }

    /// Brings the scores of one row to the host.
    pub(crate) fn scores(&self, device: &Device, row: usize) -> Result<Vec<f32>, ModelError> {
        let (start, end) = (self.places.score_row(row), self.places.score_row(row + 1));
        let words = self.words.narrow(0, start, end - start)?;
        Ok(self.places.scores(&device.read_words(&words, end - start)?))
    }
}

impl Places {
    /// Where the largest scores of a row stand.
    fn top_row(self, row: usize) -> usize {
        self.rows.next_multiple_of(WORDS_AT_ONCE) + row * TOP_WORDS
    }

    /// Where all scores of a row stand.
    fn score_row(self, row: usize) -> usize {
        self.top_row(self.rows) + row * self.stride() * self.kind.bytes() / size_of::<u32>()
    }

    /// Numbers from one row of scores to the next.
    fn stride(self) -> usize {
        self.vocabulary.next_multiple_of(2 * WORDS_AT_ONCE)
    }

    /// Rows of scores, without what is between them: `[rows, vocabulary]`.
    fn scores(self, words: &[u32]) -> Vec<f32> {
        let row = |words: &[u32]| -> Vec<f32> {
            match self.kind {
                Kind::F32 => words[..self.vocabulary].iter().map(|bits| f32::from_bits(*bits)).collect(),
                Kind::F16 => bytemuck::cast_slice::<_, f16>(words)[..self.vocabulary].to_f32_vec(),
                Kind::Bf16 => bytemuck::cast_slice::<_, bf16>(words)[..self.vocabulary].to_f32_vec(),
            }
        };
        words.chunks_exact(self.score_row(1) - self.score_row(0)).flat_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use tessera_kernels::NONE;
    use tessera_tensor::DType;

    use super::*;

    #[test]
    fn one_copy_brings_what_is_wanted() {
        for compute in DType::ALL {
            let device = Device::dense_cpu(compute);
            // Made for more rows than it is used for.
            let results = Results::room(&device, 5, 11).unwrap().with_rows(3);
            let scores: Vec<f32> = (0..33u8).map(|number| f32::from(number % 11) - f32::from(number / 11)).collect();
            let wishes = [Wish::Scores, Wish::Top { temperature: None }, Wish::Likeliest];
            let words: Vec<u32> = wishes.iter().flat_map(|wish| wish.words()).collect();
            let tensor = device.tensor(scores.clone(), &[3, 11]).unwrap();
            results.choose(&device, &tensor, &device.indices(&words).unwrap()).unwrap();
            let read = |scored, topped| results.read(&device, Wanted { scored, topped }).unwrap();
            let Answers { tokens, top, scores: found } = read(1, 1);
            assert_eq!((tokens[2], top.len(), &found[..]), (10, 1, &scores[..11]), "{compute}");
            assert_eq!((top[0].finite, top[0].pairs[0]), (11, (10, 9.0)));
            assert_eq!(results.scores(&device, 1).unwrap(), scores[11..22]);
            let fewer = read(0, 0);
            assert_eq!((fewer.tokens[2], fewer.top.len(), fewer.scores.len()), (10, 0, 0));
            assert_eq!(read(0, 2).top[1], top[0]);
        }
        let device = Device::dense_cpu(DType::F32);
        let results = Results::room(&device, 1, 2).unwrap();
        let nothing = device.singles(vec![f32::NAN; 2], &[1, 2]).unwrap();
        results.choose(&device, &nothing, &device.indices(&Wish::Likeliest.words()).unwrap()).unwrap();
        assert_eq!(results.read(&device, Wanted::default()).unwrap().tokens, [NONE]);
    }
}
