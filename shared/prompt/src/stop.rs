//! Stop strings in a stream of text.

use std::ops::Range;

/// Looks for stop strings in text that arrives in pieces, and holds back what could be the beginning of one.
///
/// The answer ends at the stop string that is complete first; of several that are complete at the same character, at
/// the one that began first. How the text was cut into pieces makes no difference.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// Text that can be shown now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The text, without the stop string.
    pub text: String,
    /// The stop string that was found; nothing more follows then.
    pub stop: Option<String>,
}

impl StopStrings {
    /// Starts a search; empty stop strings are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes a piece of text and returns what is safe to show: everything up to a stop string, or up to what may become
    /// one. After a stop string nothing is returned any more.
    pub fn push(&mut self, delta: &str) -> Released {
        if self.stopped {
            return Released { text: String::new(), stop: None };
        }
        self.held.push_str(delta);
        if let Some(found) = self.first_complete() {
            self.stopped = true;
            let stop = self.held[found.clone()].to_owned();
            self.held.truncate(found.start);
            return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let kept = self.held.split_off(self.held.len() - self.longest_beginning());
        Released { text: std::mem::replace(&mut self.held, kept), stop: None }
    }

    /// Returns the text that was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Returns where the first complete stop string stands.
    fn first_complete(&self) -> Option<Range<usize>> {
        self.stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|start| start..start + stop.len()))
            .min_by_key(|found| (found.end, found.start))
    }

    /// Returns the length of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        self.stops
            .iter()
            .flat_map(|stop| stop.char_indices().map(|(end, _)| &stop[..end]).rev())
            .filter(|beginning| self.held.ends_with(beginning))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}
