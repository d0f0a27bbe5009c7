//! Which model a pool runs when its workers do not agree.

/// The model that most workers run which are listed, among those models that some worker runs which is expected to be reached;
/// where several are as many, the one that the pool runs already, or else the first. So one worker of another model, or
/// the first few of a new one, are left out; once they are more than the others, or nobody else is expected, the pool is
/// theirs.
pub(super) fn of_the_pool<M: Clone + PartialEq>(
    present: Option<&M>,
    said: impl Iterator<Item = (M, bool)>,
) -> Option<M> {
    let mut votes: Vec<(M, usize, bool)> = Vec::new();
    for (model, can_be_reached) in said {
        match votes.iter_mut().find(|vote| vote.0 == model) {
            Some(vote) => (vote.1, vote.2) = (vote.1 + 1, vote.2 || can_be_reached),
            None => votes.push((model, 1, can_be_reached)),
        }
    }
    votes.retain(|vote| vote.2);
    let most = votes.iter().map(|vote| vote.1).max();
    let mut first = votes.iter().filter(|vote| Some(vote.1) == most).map(|vote| &vote.0);
    let incumbent = first.clone().find(|&model| Some(model) == present);
    incumbent.or_else(|| first.next()).or(present).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(present: Option<char>, said: &[(char, bool)]) -> Option<char> {
        of_the_pool(present.as_ref(), said.iter().copied())
    }

    #[test]
    fn the_majority_decides_and_the_incumbent_wins_a_tie() {
        assert_eq!(of(None, &[]), None);
        assert_eq!(of(None, &[('a', true), ('b', true), ('b', true)]), Some('b'));
        assert_eq!(of(None, &[('a', true), ('b', true)]), Some('a'));
        assert_eq!(of(Some('b'), &[('a', true), ('b', true)]), Some('b'));
        assert_eq!(of(Some('b'), &[('a', true), ('a', true), ('b', true)]), Some('a'));
    }

    #[test]
    fn who_is_lost_for_a_while_still_counts_unless_nobody_else_is_there() {
        assert_eq!(of(Some('a'), &[('a', true), ('a', false), ('b', true), ('b', true)]), Some('a'));
        assert_eq!(of(Some('a'), &[('a', false), ('a', false), ('b', true)]), Some('b'));
        assert_eq!(of(Some('a'), &[('a', false)]), Some('a'), "nobody says otherwise");
        assert_eq!(of(Some('a'), &[]), Some('a'));
    }
}
