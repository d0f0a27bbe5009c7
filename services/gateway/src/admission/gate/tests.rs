mod simulation;

use super::*;

const BOUNDS: Bounds = Bounds { waiting: 100, time: Duration::from_secs(1), overcommit: 1.0 };

fn whose(tenant: &str) -> Whose {
    Whose { tenant: tenant.into(), class: Class::Interactive, weight: 1.0 }
}

fn tokens(tokens: usize) -> Cost {
    Cost { tiles: 0, tokens }
}

fn room(sequences: usize, positions: usize) -> Room {
    Room { vision_workers: 1, sequences: Some(sequences), positions: Some(positions) }
}

fn names<G>(through: Vec<(G, Cost)>) -> Vec<G> {
    through.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn as_many_go_through_as_the_pools_have_room_for() {
    let (mut gate, now) = (Gate::new(BOUNDS), Instant::now());
    for name in 0..5 {
        gate.join(&whose("a"), tokens(100), name);
    }
    assert_eq!(names(gate.open(&room(2, 1000), now)), [0, 1], "by sequences");
    assert_eq!(names(gate.open(&room(9, 399), now)), [2], "by positions");
    gate.release(tokens(100), None);
    assert_eq!(names(gate.open(&room(9, 300), now)), [3]);
    // A pool that says nothing, or of which nobody is there, holds nobody up: the call to it will say what is wrong.
    assert_eq!(names(gate.open(&Room::default(), now)), [4]);
}

#[test]
fn a_request_that_is_larger_than_a_pool_goes_through_alone() {
    let (mut gate, now) = (Gate::new(BOUNDS), Instant::now());
    gate.join(&whose("a"), Cost { tiles: 500, tokens: 5000 }, 0);
    gate.join(&whose("a"), Cost { tiles: 500, tokens: 5000 }, 1);
    assert_eq!(names(gate.open(&room(0, 100), now)), [0]);
    gate.release(Cost { tiles: 500, tokens: 5000 }, Some(Duration::from_secs(1)));
    assert_eq!(names(gate.open(&room(0, 100), now)), [1]);
}

#[test]
fn text_goes_on_while_images_wait() {
    let (mut gate, now) = (Gate::new(BOUNDS), Instant::now());
    let image = Cost { tiles: 30, tokens: 100 };
    let _waits = [gate.join(&whose("a"), image, 0), gate.join(&whose("a"), image, 1)];
    gate.join(&whose("a"), tokens(100), 2);
    assert_eq!(names(gate.open(&room(9, 10_000), now)), [0, 2], "a worker has forty tiles at first");
    // Once the tiles are encoded there is room for the others, though the answer still goes on.
    gate.release(Cost { tiles: 30, tokens: 0 }, None);
    assert_eq!(names(gate.open(&room(9, 10_000), now)), [1]);
}

/// A gate at which tokens go through at 1000 a second, in requests of 100, and a line of so many.
fn busy(waiting: usize) -> (Gate<usize>, Instant) {
    let (mut gate, mut now) = (Gate::new(BOUNDS), Instant::now());
    for name in 0..waiting + 41 {
        gate.join(&whose("a"), tokens(100), name);
    }
    for _ in 0..41 {
        assert_eq!(gate.open(&room(1, 1000), now).len(), 1);
        now += Duration::from_millis(100);
        gate.release(tokens(100), Some(Duration::from_millis(100)));
    }
    gate.join(&whose("a"), tokens(100), 0);
    gate.open(&room(1, 1000), now);
    (gate, now)
}

fn foresee(gate: &mut Gate<usize>, left: Option<Duration>, now: Instant) -> Result<(), TooLong> {
    gate.foresee_next(&whose("a"), tokens(1), left, now)
}

fn near(time: Duration, seconds: f64) -> bool {
    (time.as_secs_f64() - seconds).abs() < 0.12
}

#[test]
fn who_would_wait_too_long_is_told_so_and_when_it_is_worth_while_to_come_back() {
    let (mut gate, now) = busy(5);
    assert_eq!(foresee(&mut gate, None, now), Ok(()));
    let (mut gate, now) = busy(30);
    let first = foresee(&mut gate, None, now).unwrap_err();
    assert!(near(first.wait, 3.1) && near(first.retry_after, 2.45), "{first:?}");
    // Whoever is refused next comes behind the first.
    let second = foresee(&mut gate, None, now).unwrap_err();
    assert!(near(second.retry_after, 2.55), "{second:?}");
    // Another tenant has its own share, and nothing ahead of it there.
    assert_eq!(gate.foresee_next(&whose("b"), tokens(1), None, now), Ok(()));
    // A batch waits as long as it must.
    let batch = Whose { class: Class::Batch, ..whose("a") };
    assert_eq!(gate.foresee_next(&batch, tokens(1), None, now), Ok(()));
    // What needs only the other pool does not wait.
    assert_eq!(gate.foresee_next(&whose("a"), Cost { tiles: 5, tokens: 0 }, None, now), Ok(()));
}

#[test]
fn who_could_not_be_done_before_the_deadline_is_told_so() {
    let (mut gate, now) = busy(5);
    // It waits for 0.6 s, and takes 0.1 s itself.
    assert!(foresee(&mut gate, Some(Duration::from_millis(600)), now).is_err());
    assert_eq!(foresee(&mut gate, Some(Duration::from_millis(800)), now), Ok(()));
    // Where nobody waits, even the shortest time is worth a try.
    assert_eq!(foresee(&mut Gate::new(BOUNDS), Some(Duration::ZERO), now), Ok(()));
}

#[test]
fn where_nothing_is_known_yet_nobody_is_refused_for_the_time() {
    let (mut gate, now) = (Gate::new(BOUNDS), Instant::now());
    for name in 0..90 {
        gate.join(&whose("a"), tokens(100), name);
    }
    gate.open(&room(1, 1000), now);
    assert_eq!(foresee(&mut gate, None, now), Ok(()));
}

#[test]
fn too_many_are_refused_where_there_are_most_of_them() {
    let (mut gate, now) = (Gate::new(Bounds { waiting: 3, ..BOUNDS }), Instant::now());
    for name in 0..5 {
        gate.join(&whose("flood"), tokens(100), name);
    }
    gate.join(&whose("quiet"), tokens(100), 9);
    assert_eq!(names(gate.open(&room(1, 1000), now)), [0]);
    let refused: Vec<usize> = std::iter::from_fn(|| Some(gate.give_way(now)?.0)).collect();
    assert_eq!(refused, [4, 3]);
}

#[test]
fn nobody_is_told_to_come_back_at_once_or_never() {
    let (mut gate, now) = busy(30);
    let promised: Vec<_> = (0..2000).map(|_| gate.promise(&whose("b"), tokens(100), Duration::ZERO, now)).collect();
    assert!(promised.iter().all(|time| (SHORTEST..=LONGEST).contains(time)));
    assert_eq!(promised[1999], LONGEST);
    // What was promised is over once its time has come.
    let later = now + LONGEST * 2;
    assert!(gate.promise(&whose("b"), tokens(100), Duration::ZERO, later) < Duration::from_secs(1));
    assert_eq!(gate.promises.len(), 1);
}
