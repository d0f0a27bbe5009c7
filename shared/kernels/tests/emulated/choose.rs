//! `choose`: to the bit, for a draw must be the same wherever it is made.

use tessera_kernels::{
    Element, MOST_EQUAL, NONE, TOP, TOP_WORDS, TopScores, Wish, launch,
    reference::{self, Found},
};

use crate::{
    case::{assert_same, for_each_kind, memory, number, numbers, run},
    program::Program,
    random::Random,
};

/// Rows of scores and what is wished for.
struct Case<T> {
    scores: Vec<T>,
    vocabulary: usize,
    wishes: Vec<Wish>,
}

/// What memory holds that nobody has written.
const UNTOUCHED: u32 = 0x7777_7777;

impl<T: Element> Case<T> {
    /// Runs the kernel and holds it to the reference; returns the tokens and the largest scores.
    fn check(&self, program: &mut Program, random: &mut Random) -> (Vec<u32>, Vec<TopScores>) {
        let Self { scores, vocabulary, wishes } = self;
        let (rows, vocabulary) = (wishes.len(), *vocabulary);
        let stride = vocabulary + random.pick(&[0, 0, 1, 5]);
        let (mut tokens, mut top) = (vec![UNTOUCHED; rows], vec![UNTOUCHED; rows * TOP_WORDS]);
        let mut kept = Random::poison::<T>(rows * stride);
        let words: Vec<u32> = wishes.iter().flat_map(|wish| wish.words()).collect();
        let arguments = [
            memory(&tokens),
            memory(&top),
            memory(&kept).shifted::<T>(random.shift()),
            memory(scores).shifted::<T>(random.shift()),
            memory(&words),
            number(rows),
            number(vocabulary),
            number(stride),
        ];
        let launch = launch::choose(T::KIND, rows, vocabulary, stride).expect("the kernel takes such rows");
        let found = run(program, &launch, &arguments, &[0, 1, 2]);
        let into = Found { tokens: &mut tokens, top: &mut top, scores: &mut kept, stride };
        reference::choose(into, scores, wishes, vocabulary);
        let what = format!("{wishes:?} of {vocabulary}");
        assert_eq!(numbers::<u32>(&found[0]), tokens, "{what}");
        for (row, (found, expected)) in
            numbers::<u32>(&found[1]).chunks(TOP_WORDS).zip(top.chunks(TOP_WORDS)).enumerate()
        {
            assert!(
                found == expected,
                "{what}, row {row}: {:?}, not {:?}",
                TopScores::read(found),
                TopScores::read(expected)
            );
        }
        assert_same(&numbers::<T>(&found[2]), &kept, &what);
        (tokens, top.chunks(TOP_WORDS).map(TopScores::read).collect())
    }
}

fn wish(random: &mut Random) -> Wish {
    let temperature = random.pick(&[0.1, 0.7, 1.0, 1.3, 20.0, 1e-45, f32::MIN_POSITIVE]);
    let number = f64::from(random.real().abs());
    match random.below(8) {
        0 => Wish::Nothing,
        1 => Wish::Scores,
        2 => Wish::Likeliest,
        3 | 4 => Wish::Top { temperature: Some(temperature).filter(|_| random.coin()) },
        _ => Wish::Draw { temperature, number: random.pick(&[number, number, 0.0, 1.0]) },
    }
}

#[test]
fn rows_give_what_is_wished_for() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(2));
        for round in 0..40 {
            let vocabulary = random.pick(&[1, 5, 127, 128, 129, 250, 1003, 1024, 1025, 2048, 8192, 9001]);
            let wishes: Vec<Wish> = (0..1 + random.below(4)).map(|_| wish(&mut random)).collect();
            let reach = random.pick(&[0.01, 4.0, 60.0]);
            let mut scores: Vec<T> = random.numbers(wishes.len() * vocabulary, reach);
            for score in &mut scores {
                // Equal largest ones, and what is not finite.
                let spoiled = [reach, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0];
                if random.below(if round % 2 == 0 { 8 } else { 1000 }) == 0 {
                    *score = T::from_f32(random.pick(&spoiled));
                }
            }
            Case { scores, vocabulary, wishes }.check(&mut program, &mut random);
        }
    }
    for_each_kind!(check);
}

#[test]
fn where_nothing_is_finite_nothing_is_chosen() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(3));
        let nothing = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let wishes = vec![
            Wish::Likeliest,
            Wish::Draw { temperature: 1.0, number: 0.5 },
            Wish::Top { temperature: Some(1.0) },
            Wish::Scores,
        ];
        let scores = (0..4 * 1500).map(|_| T::from_f32(random.pick(&nothing))).collect();
        let (tokens, top) = Case { scores, vocabulary: 1500, wishes }.check(&mut program, &mut random);
        assert_eq!(tokens, [NONE, NONE, UNTOUCHED, UNTOUCHED]);
        assert_eq!(top[2], TopScores { finite: 0, total: 0.0, pairs: Vec::new() });
    }
    for_each_kind!(check);
}

/// Scores that lie so that the threads' own largest tell little of the largest of all: in the packs of few threads, equal in great
/// numbers, rising and falling.
#[test]
fn the_largest_are_found_wherever_they_stand() {
    fn check<T: Element>() {
        let (mut program, mut random) = (Program::start(), Random::new(4));
        let vocabulary = 3 * 8192 + 77;
        let steps = |number: usize, steps: usize| (number % steps) as f32 - 20.0;
        let mut few = vec![-50.0; vocabulary];
        for pack in [0, 8192, 2 * 8192, 800, 800 + 8192, 16_000] {
            few[pack..pack + 300].fill_with(|| random.real());
        }
        let rows: [Vec<f32>; 7] = [
            few,
            (0..vocabulary).map(|id| steps(id, 40)).collect(),
            (0..vocabulary).map(|id| steps(id, 20)).collect(),
            (0..vocabulary).map(|id| id as f32 / 512.0).collect(),
            (0..vocabulary).map(|id| -(id as f32)).collect(),
            (0..vocabulary).map(|id| if id % 8192 < 64 { 1.0 + (id / 8192) as f32 } else { f32::NAN }).collect(),
            // As many equal ones as are told apart, and one more.
            (0..vocabulary).map(|id| if id < MOST_EQUAL { 3.0 } else { 0.0 }).collect(),
        ];
        for (row, scores) in rows.into_iter().enumerate() {
            let scores: Vec<T> = scores.into_iter().map(T::from_f32).collect();
            let wishes = vec![Wish::Top { temperature: Some(1.0) }];
            let (_, top) = Case { scores, vocabulary, wishes }.check(&mut program, &mut random);
            let expected = if row == 2 { 0 } else { TOP };
            assert_eq!(top[0].pairs.len(), expected, "row {row}");
        }
        let scores: Vec<T> = (0..4000).map(|id| T::from_f32(if id <= MOST_EQUAL { 3.0 } else { 0.0 })).collect();
        let wishes = vec![Wish::Top { temperature: None }];
        let (_, top) = Case { scores, vocabulary: 4000, wishes }.check(&mut program, &mut random);
        assert_eq!((top[0].finite, top[0].pairs.len()), (4000, 0));
    }
    for_each_kind!(check);
}
