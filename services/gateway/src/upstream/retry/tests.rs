//! Retries and hedges over scripted workers, with paused time.

use std::cell::RefCell;

use super::*;

/// What a worker does: how long it takes, and its answer.
type Script = (u64, Result<&'static str, Error>);

fn unreachable() -> Error {
    Error::new(ErrorKind::Unavailable, "UNREACHABLE", "gone")
}

fn full() -> Error {
    Error::exhausted("QUEUE_FULL", "full", Duration::from_secs(1))
}

fn wrong() -> Error {
    Error::field("IMAGE_CORRUPT", "image", "is wrong")
}

struct Asked {
    outcome: Result<&'static str>,
    /// Who was asked, why and when.
    turns: Vec<(usize, Turn, u64)>,
    /// Who was let go before it answered.
    dropped: Vec<usize>,
    figures: Figures,
}

/// Notes that a call was let go.
struct Call<'a>(usize, &'a RefCell<Vec<usize>>);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

async fn asked(scripts: &[Script], hedge: Option<u64>, settings: RetrySettings) -> Asked {
    let (budget, figures, began) = (Budget::new(settings), Figures::default(), Instant::now());
    let (turns, dropped) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let order: Vec<usize> = (0..scripts.len()).collect();
    let ask = |&worker: &usize, turn| {
        turns.borrow_mut().push((worker, turn, u64::try_from(began.elapsed().as_millis()).unwrap()));
        let ((time, outcome), dropped) = (scripts[worker].clone(), &dropped);
        async move {
            let call = Call(worker, dropped);
            tokio::time::sleep(Duration::from_millis(time)).await;
            std::mem::forget(call);
            outcome
        }
    };
    let outcome = ask_in_order(&order, hedge.map(Duration::from_millis), (&budget, &figures), ask).await;
    Asked { outcome, turns: turns.into_inner(), dropped: dropped.into_inner(), figures }
}

#[tokio::test(start_paused = true)]
async fn what_one_worker_cannot_do_the_next_does_at_once() {
    for error in [unreachable(), full(), Error::draining()] {
        let scripts = [(5, Err(error.clone())), (7, Err(error)), (9, Ok("third"))];
        let Asked { outcome, turns, figures, .. } = asked(&scripts, None, RetrySettings::default()).await;
        assert_eq!(outcome, Ok("third"));
        assert_eq!(turns, [(0, Turn::First, 0), (1, Turn::Retry, 5), (2, Turn::Retry, 12)]);
        assert_eq!((figures.retries(), figures.hedges()), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_other_worker_would_change_is_returned_at_once() {
    let scripts = [(5, Err(wrong())), (0, Ok("second"))];
    let Asked { outcome, turns, .. } = asked(&scripts, None, RetrySettings::default()).await;
    assert_eq!((outcome, turns.len()), (Err(wrong()), 1));
}

#[tokio::test(start_paused = true)]
async fn attempts_have_a_bound_and_a_full_queue_is_what_the_client_hears_of() {
    let scripts = [(1, Err(full())), (1, Err(unreachable())), (1, Err(unreachable())), (1, Ok("fourth"))];
    let Asked { outcome, turns, .. } = asked(&scripts, None, RetrySettings::default()).await;
    assert_eq!((outcome, turns.len()), (Err(full()), ATTEMPTS));
    let Asked { outcome, .. } = asked(&[(1, Err(unreachable()))], None, RetrySettings::default()).await;
    assert_eq!(outcome, Err(unreachable()));
    let Asked { outcome, .. } = asked(&[], None, RetrySettings::default()).await;
    assert_eq!(outcome.unwrap_err().reason, "POOL_EMPTY");
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_ends_retries_and_hedges() {
    let spent = RetrySettings { share: 0.0, per_second: 0.0 };
    let scripts = [(50, Err(unreachable())), (0, Ok("second"))];
    for hedge in [None, Some(10)] {
        let Asked { outcome, turns, .. } = asked(&scripts, hedge, spent.clone()).await;
        assert_eq!((outcome, turns.len()), (Err(unreachable()), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_worker_is_helped_out_and_the_first_answer_counts() {
    // The second one is faster: the first is let go.
    let scripts = [(1000, Ok("first")), (20, Ok("second")), (0, Ok("third"))];
    let Asked { outcome, turns, dropped, figures } = asked(&scripts, Some(100), RetrySettings::default()).await;
    assert_eq!((outcome, dropped), (Ok("second"), vec![0]));
    assert_eq!(turns, [(0, Turn::First, 0), (1, Turn::Hedge, 100)]);
    assert_eq!((figures.retries(), figures.hedges()), (0, 1));
    // The first one is faster after all, or in time.
    let scripts = [(130, Ok("first")), (50, Ok("second"))];
    let Asked { outcome, dropped, .. } = asked(&scripts, Some(100), RetrySettings::default()).await;
    assert_eq!((outcome, dropped), (Ok("first"), vec![1]));
    let Asked { outcome, turns, .. } = asked(&scripts, Some(131), RetrySettings::default()).await;
    assert_eq!((outcome, turns.len()), (Ok("first"), 1));
}

#[tokio::test(start_paused = true)]
async fn while_a_hedge_runs_a_failure_is_no_end() {
    let scripts = [(120, Err(unreachable())), (50, Ok("second")), (0, Ok("third"))];
    let Asked { outcome, turns, .. } = asked(&scripts, Some(100), RetrySettings::default()).await;
    assert_eq!((outcome, turns.len()), (Ok("second"), 2));
    let scripts = [(120, Err(unreachable())), (50, Err(full())), (3, Ok("third"))];
    let Asked { outcome, turns, .. } = asked(&scripts, Some(100), RetrySettings::default()).await;
    assert_eq!((outcome, turns.last()), (Ok("third"), Some(&(2, Turn::Retry, 150))));
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_a_share_of_the_calls_and_so_many_a_second() {
    let budget = Budget::new(RetrySettings { share: 0.2, per_second: 10.0 });
    let taken = || std::iter::repeat_with(|| budget.take()).take_while(|&granted| granted).count();
    assert_eq!(taken(), 100, "what is saved up in ten seconds");
    for _ in 0..50 {
        budget.count();
    }
    assert!((9..=10).contains(&taken()), "a fifth of the calls");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!((9..=11).contains(&taken()), "ten a second");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(taken(), 100, "not what an hour would give");
}
