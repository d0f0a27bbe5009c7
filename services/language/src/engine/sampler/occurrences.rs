//! How often each id occurs in a history, kept up as the history grows.

use std::collections::HashMap;

/// The counts of one history.
#[derive(Clone, Debug, Default)]
pub(super) struct Occurrences {
    /// The history that is counted.
    seen: Vec<u32>,
    prompt: usize,
    counts: HashMap<u32, Count>,
}

/// How often an id occurs; not zero in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// In the prompt.
    pub(super) prompt: usize,
    /// In the answer.
    pub(super) answer: usize,
}

impl Occurrences {
    /// Counts `history`, of which `prompt` ids are prompt: only what is new in it, or what is no longer there.
    pub(super) fn follow(&mut self, history: &[u32], prompt: usize) {
        if prompt != self.prompt {
            *self = Self { prompt, ..Self::default() };
        }
        let common = self.seen.iter().zip(history).take_while(|(seen, id)| seen == id).count();
        for position in (common..self.seen.len()).rev() {
            let id = self.seen[position];
            let count = self.count_mut(position, id);
            *count -= 1;
            if self.counts[&id] == Count::default() {
                self.counts.remove(&id);
            }
        }
        self.seen.truncate(common);
        for (position, &id) in history.iter().enumerate().skip(common) {
            *self.count_mut(position, id) += 1;
            self.seen.push(id);
        }
    }

    /// Every id that occurs, once, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Count)> {
        self.counts.iter().map(|(&id, &count)| (id, count))
    }

    fn count_mut(&mut self, position: usize, id: u32) -> &mut usize {
        let count = self.counts.entry(id).or_default();
        if position < self.prompt { &mut count.prompt } else { &mut count.answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn following_many_histories_counts_as_counting_each_anew() {
        let histories: [(&[u32], usize); 8] = [
            (&[5, 5, 7], 3),
            (&[5, 5, 7, 7, 9], 3),
            (&[5, 5, 7, 8], 3),
            (&[5, 5, 7, 8, 8, 5], 3),
            (&[5, 5, 7, 8, 8, 5], 2),
            (&[5], 2),
            (&[1, 2, 3], 2),
            (&[], 0),
        ];
        let mut following = Occurrences::default();
        for (history, prompt) in histories {
            following.follow(history, prompt);
            let mut anew = HashMap::<u32, Count>::new();
            for (position, &id) in history.iter().enumerate() {
                let count = anew.entry(id).or_default();
                *if position < prompt { &mut count.prompt } else { &mut count.answer } += 1;
            }
            assert_eq!(following.iter().collect::<HashMap<_, _>>(), anew, "{history:?}");
        }
    }
}
