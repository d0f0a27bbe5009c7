//! What is to be found in a row of scores, and what of it is more than an id, as words that a device is given and gives.

/// The most of a row's largest scores that are told apart.
///
/// A cut that somebody asks for leaves fewer: top-k is mostly 20 to 64, and a top-p of 0.95 leaves a handful behind a picture. Twice as
/// many leaves room for scores that are equal, of which 16 bits make many.
pub const TOP: usize = 128;
/// Words that a row's largest scores are told in.
pub const TOP_WORDS: usize = HEADER + 2 * TOP;
/// Where more numbers reach the last of the largest than this, equal ones all, the largest are not told.
pub const MOST_EQUAL: usize = 1024;

/// Words in front of the ids: how many scores are finite, how many are told, and the halves of the sum.
const HEADER: usize = 4;

/// What [`choose`](crate::reference::choose) finds in a row of scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Wish {
    /// Nothing: the row is padding.
    #[default]
    Nothing,
    /// The first of the ids with the largest finite score.
    Likeliest,
    /// All scores, as they are.
    Scores,
    /// The largest scores. All of them are kept as well, for whoever finds that the largest do not suffice.
    Top {
        /// If given, the sum of all powers is wanted too: of e, to scores divided by this, less the largest of these.
        temperature: Option<f32>,
    },
    /// An id that is drawn, each as likely as its power is large.
    Draw {
        /// What scores are divided by.
        temperature: f32,
        /// Where it falls in the unit interval.
        number: f64,
    },
}

impl Wish {
    /// Words of a wish: what, the temperature, and the halves of the number.
    pub const WORDS: usize = 4;

    /// Returns the words that the kernel is told it in.
    #[must_use]
    pub fn words(self) -> [u32; Self::WORDS] {
        match self {
            Self::Nothing => [0; Self::WORDS],
            Self::Likeliest => [1, 0, 0, 0],
            Self::Scores => [2, 0, 0, 0],
            Self::Top { temperature } => [3, temperature.unwrap_or(0.0).to_bits(), 0, 0],
            Self::Draw { temperature, number } => {
                let [low, high] = halves(number.to_bits());
                [4, temperature.to_bits(), low, high]
            }
        }
    }

    /// Reads what [`words`](Self::words) wrote; there is no other wish.
    #[must_use]
    pub fn from_words([what, temperature, low, high]: [u32; Self::WORDS]) -> Option<Self> {
        let temperature = f32::from_bits(temperature);
        match what {
            0 => Some(Self::Nothing),
            1 => Some(Self::Likeliest),
            2 => Some(Self::Scores),
            3 => Some(Self::Top { temperature: Some(temperature).filter(|temperature| *temperature > 0.0) }),
            4 => Some(Self::Draw { temperature, number: f64::from_bits(whole([low, high])) }),
            _ => None,
        }
    }

    /// Tells whether all scores of the row are kept.
    #[must_use]
    pub fn keeps_scores(self) -> bool {
        matches!(self, Self::Scores | Self::Top { .. })
    }
}

/// The largest finite scores of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct TopScores {
    /// How many scores of the row are finite.
    pub finite: usize,
    /// The sum of all powers, if it was wanted; else 0.
    pub total: f64,
    /// Ids and scores, the largest first and equal ones by id: [`TOP`], or all that are finite. None where more than
    /// [`MOST_EQUAL`] are as large as the last of them.
    pub pairs: Vec<(u32, f32)>,
}

impl TopScores {
    /// Writes it to a row's words; those behind the last pair stay as they are.
    ///
    /// words: `[TOP_WORDS]`
    pub fn write(&self, words: &mut [u32]) {
        let [low, high] = halves(self.total.to_bits());
        words[..HEADER].copy_from_slice(&[self.finite as u32, self.pairs.len() as u32, low, high]);
        let (ids, scores) = words[HEADER..].split_at_mut(TOP);
        for ((id, score), pair) in ids.iter_mut().zip(scores).zip(&self.pairs) {
            (*id, *score) = (pair.0, pair.1.to_bits());
        }
    }

    /// Reads a row's words.
    ///
    /// words: `[TOP_WORDS]`
    #[must_use]
    pub fn read(words: &[u32]) -> Self {
        let ([finite, given, low, high], rest) = (std::array::from_fn(|word| words[word]), &words[HEADER..]);
        let (ids, scores) = rest.split_at(TOP);
        let pairs = ids.iter().zip(scores).take(given as usize).map(|(id, score)| (*id, f32::from_bits(*score)));
        Self { finite: finite as usize, total: f64::from_bits(whole([low, high])), pairs: pairs.collect() }
    }

    /// Tells whether there are finite scores that are not told.
    #[must_use]
    pub fn leaves_some(&self) -> bool {
        self.finite > self.pairs.len()
    }
}

/// The halves of a number of 64 bits, the lower one first.
fn halves(bits: u64) -> [u32; 2] {
    [bits as u32, (bits >> 32) as u32]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_as_it_is_written() {
        let wishes = [
            Wish::Nothing,
            Wish::Likeliest,
            Wish::Scores,
            Wish::Top { temperature: None },
            Wish::Top { temperature: Some(0.7) },
            Wish::Draw { temperature: 1.5, number: 0.123_456_789 },
        ];
        for wish in wishes {
            assert_eq!(Wish::from_words(wish.words()), Some(wish));
        }
        assert_eq!(Wish::from_words([5, 0, 0, 0]), None);
    }

    #[test]
    fn the_largest_are_read_as_they_are_written() {
        let top = TopScores { finite: 3, total: 1.0 / 3.0, pairs: vec![(7, 2.5), (9, -1.0)] };
        let mut words = [77; TOP_WORDS];
        top.write(&mut words);
        assert_eq!(TopScores::read(&words), top);
        assert_eq!((words[HEADER + 1], words[HEADER + 2]), (9, 77));
        assert!(top.leaves_some() && !TopScores { finite: 2, ..top }.leaves_some());
    }
}
