//! What the device finds in its scores, beside what is found in all of them on the host: to the bit, launched and replayed.

use std::path::Path;

use tessera_checkpoint::Checkpoint;
use tessera_kernels::reference::{Found, choose};
use tessera_kernels::{TOP_WORDS, TopScores, Wish};
use tessera_model::{LanguageModel, LoadOptions, Logits, ModelError};

use super::decoder::Decoder;

/// Sequences, no number that decode steps are rounded up to, and the positions behind which they decode.
const SEQUENCES: usize = 5;
const CONTEXT: usize = 70;
/// Steps of a kind: the first is launched, the second recorded, the others replayed.
const REPEATED: usize = 3;

const WISHES: [(Logits, Wish); 5] = [
    (Logits::Likeliest, Wish::Likeliest),
    (Logits::Top { temperature: None }, Wish::Top { temperature: None }),
    (Logits::Top { temperature: Some(0.7) }, Wish::Top { temperature: Some(0.7) }),
    (Logits::Draw { temperature: 1.0, number: 0.3 }, Wish::Draw { temperature: 1.0, number: 0.3 }),
    (Logits::Draw { temperature: 5.0, number: 0.987 }, Wish::Draw { temperature: 5.0, number: 0.987 }),
];

/// Tells whether all that is found is what it should be.
pub(crate) fn holds(folder: &Path, options: &LoadOptions<'_>) -> Result<bool, ModelError> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let model = LanguageModel::load(&checkpoint, options)?;
    let mut decoder = Decoder::new(&model, SEQUENCES, CONTEXT + 1)?;
    decoder.fill(CONTEXT)?;
    let all = decoder.look(Logits::Last)?;
    let mut holds = true;
    for (logits, wish) in WISHES {
        for _ in 0..REPEATED {
            let found = decoder.look(logits)?;
            holds &= (0..SEQUENCES).all(|sequence| {
                let (token, top) = expected(all.of(sequence), wish);
                match wish {
                    Wish::Top { .. } => found.top(sequence) == Some(&top),
                    _ => found.token(sequence) == Some(token),
                }
            });
        }
    }
    Ok(holds)
}

/// What is found on the host.
fn expected(scores: &[f32], wish: Wish) -> (u32, TopScores) {
    let (mut token, mut top, mut kept) = ([0], [0; TOP_WORDS], vec![0.0; scores.len()]);
    let found = Found { tokens: &mut token, top: &mut top, scores: &mut kept, stride: scores.len() };
    choose(found, scores, &[wish], scores.len());
    (token[0], TopScores::read(&top))
}
