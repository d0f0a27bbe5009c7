//! One answer in progress: tokens to text, up to a stop string or the worker's end.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::gateway::Settings;
use tessera_prompt::{Detokenizer, Released, StopStrings};

/// What stops an answer besides the language worker.
#[derive(Debug)]
pub(crate) struct Stops {
    strings: Vec<String>,
    /// They end the answer in the worker; their text is left out like that of a stop string.
    token_ids: Vec<u32>,
    /// Keep the text of what stopped the answer.
    include: bool,
}

/// One answer in progress.
#[derive(Debug)]
pub(crate) struct Sample {
    detokenizer: Detokenizer,
    search: StopStrings,
    stops: Arc<Stops>,
    /// New tokens so far, the end token included.
    pub(crate) token_ids: Vec<u32>,
    /// When the first of them came, counted from the request.
    pub(crate) first_token: Duration,
    /// Nothing more comes of it.
    pub(crate) ended: bool,
}

/// What new tokens, or the end, come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text that can be shown now.
    pub(crate) text: String,
    /// How many of the tokens belong to the answer: what follows a stop string does not.
    pub(crate) tokens: usize,
    /// A stop string was found; the sample has ended.
    pub(crate) stopped: bool,
}

impl Stops {
    /// Takes what a request says about stopping.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { strings: settings.stop, token_ids: settings.stop_token_ids, include: settings.include_stop }
    }
}

impl Sample {
    /// Starts an answer.
    pub(crate) fn new(detokenizer: Detokenizer, stops: Arc<Stops>) -> Self {
        let search = StopStrings::new(stops.strings.iter().cloned());
        Self { detokenizer, search, stops, token_ids: Vec::new(), first_token: Duration::ZERO, ended: false }
    }

    /// Takes tokens that came at `now`, counted from the request.
    pub(crate) fn push(&mut self, token_ids: &[u32], now: Duration) -> Piece {
        if self.token_ids.is_empty() {
            self.first_token = now;
        }
        let mut piece = Piece { text: String::new(), tokens: 0, stopped: false };
        for &id in token_ids {
            piece.tokens += 1;
            self.token_ids.push(id);
            if self.stops.include || !self.stops.token_ids.contains(&id) {
                let text = self.detokenizer.push(id);
                self.show(&text, &mut piece);
            }
            if piece.stopped {
                break;
            }
        }
        piece
    }

    /// Takes the worker's end, and returns what was held back.
    pub(crate) fn finish(&mut self) -> Piece {
        let mut piece = Piece { text: String::new(), tokens: 0, stopped: false };
        let text = self.detokenizer.finish();
        self.show(&text, &mut piece);
        piece.text.push_str(&self.search.finish());
        self.ended = true;
        piece
    }

    /// Adds text as far as it can be shown.
    fn show(&mut self, text: &str, piece: &mut Piece) {
        let Released { text, stop } = self.search.push(text);
        piece.text.push_str(&text);
        if let Some(stop) = stop {
            if self.stops.include {
                piece.text.push_str(&stop);
            }
            (piece.stopped, self.ended) = (true, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_checkpoint::Checkpoint;
    use tessera_prompt::Prompter;
    use tessera_testkit::{Golden, family_dir};

    use super::*;

    /// Ids and text of an answer, and a sample that is stopped as the settings say.
    fn answer(settings: &Settings) -> (Vec<u32>, String, Sample) {
        let prompter = Prompter::open(&Checkpoint::open(&family_dir("mistral")).unwrap()).unwrap();
        let golden = Golden::load("mistral", "one_image");
        let sample = Sample::new(prompter.detokenizer(), Arc::new(Stops::new(settings.clone())));
        (golden.greedy[0].clone(), golden.greedy_text[0].clone(), sample)
    }

    fn settings(stop: &str, include_stop: bool) -> Settings {
        Settings { stop: vec![stop.into()], include_stop, ..Settings::default() }
    }

    #[test]
    fn tokens_behind_a_stop_string_are_no_part_of_the_answer() {
        for include in [false, true] {
            let (ids, text, mut sample) = answer(&settings("stree", include));
            assert!(text.starts_with("4 m\u{fffd} o d streetistant huma"), "{text}");
            let piece = sample.push(&ids, Duration::from_secs(1));
            assert_eq!(piece.text, if include { "4 m\u{fffd} o d stree" } else { "4 m\u{fffd} o d " });
            assert!(piece.stopped && sample.ended);
            assert!(piece.tokens < ids.len() && sample.token_ids == ids[..piece.tokens]);
            assert_eq!(sample.first_token, Duration::from_secs(1));

            // One token at a time makes no difference.
            let (ids, _, mut sample) = answer(&settings("stree", include));
            let mut pieces = ids.iter().map(|&id| sample.push(&[id], Duration::ZERO));
            let mut streamed = String::new();
            let stopped = pieces.by_ref().find_map(|piece| {
                streamed.push_str(&piece.text);
                piece.stopped.then_some(())
            });
            assert!(stopped.is_some());
            assert_eq!((streamed, sample.token_ids.len()), (piece.text, piece.tokens));
        }
    }

    #[test]
    fn what_might_have_become_a_stop_string_is_text_at_the_end() {
        let (ids, text, mut sample) = answer(&settings(" huma humans", false));
        let piece = sample.push(&ids, Duration::ZERO);
        assert!(text.starts_with(&piece.text) && piece.text.len() < text.len() && !piece.stopped);
        let rest = sample.finish();
        assert_eq!((piece.text + &rest.text, rest.stopped, sample.ended), (text, false, true));
    }

    #[test]
    fn the_text_of_a_stop_token_is_left_out_unless_it_is_wanted() {
        let (ids, _, _) = answer(&Settings::default());
        let (last, first) = ids.split_last().unwrap();
        for include_stop in [false, true] {
            let settings = Settings { stop_token_ids: vec![*last], include_stop, ..Settings::default() };
            let (_, text, mut sample) = answer(&settings);
            let first = &first[..first.iter().position(|id| id == last).unwrap_or(first.len())];
            let shown = sample.push(&[first, &[*last]].concat(), Duration::ZERO).text + &sample.finish().text;
            let (_, _, mut without) = answer(&Settings::default());
            let before = without.push(first, Duration::ZERO).text + &without.finish().text;
            assert_eq!(shown == before, !include_stop, "{shown:?} {before:?}");
            assert!(text.starts_with(&shown), "{shown:?}");
            assert_eq!(sample.token_ids.len(), first.len() + 1);
        }
    }
}
