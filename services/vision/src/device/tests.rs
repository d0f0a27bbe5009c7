//! The thread over a fake tower: what is on the device when, who is told what, and what is counted.

pub(super) mod fake;

use super::*;
use fake::{FakeTower, NO_END, NO_START, Reply, job, plan};

/// Lets the thread do what was asked before it began; returns how long it counts a pass on the device.
fn run_over(tower: &FakeTower, tiles: usize, jobs: Vec<Job>) -> Duration {
    let (sender, inbox) = mpsc::channel(jobs.len().max(1));
    jobs.into_iter().for_each(|job| sender.try_send(job).unwrap());
    drop(sender);
    let busy = AtomicU64::new(0);
    run(tower, tiles, inbox, &busy);
    Duration::from_micros(busy.into_inner())
}

/// Images of so many tiles each, and where their answers come.
fn images(tiles: &[usize]) -> (Vec<Job>, Vec<Reply>) {
    let images = (1u8..).zip(tiles).map(|(image, &tiles)| job(image.into(), tiles));
    images.map(|(job, reply)| (Job::Encode(job), reply)).unzip()
}

fn asked(tower: FakeTower) -> Vec<String> {
    tower.asked.into_inner().unwrap()
}

#[test]
fn the_next_pass_is_on_the_device_before_the_rows_of_the_last_are_waited_for() {
    let expected: [&[&str]; 2] = [
        &["start 100", "finish 100", "start 200", "finish 200", "start 300", "finish 300"],
        &["start 100", "start 200", "finish 100", "start 300", "finish 200", "finish 300"],
    ];
    for (passes, expected) in (1..).zip(expected) {
        let tower = FakeTower { passes, ..FakeTower::default() };
        let (jobs, mut replies) = images(&[2, 2, 1]);
        run_over(&tower, 2, jobs);
        for (reply, (image, tiles)) in replies.iter_mut().zip([(1.0, 2), (2.0, 2), (3.0, 1)]) {
            let rows: Vec<f32> = (0..tiles).flat_map(|tile| [image * 100.0 + tile as f32; 2]).collect();
            assert_eq!(reply.try_recv().unwrap().unwrap().rows.to_f32(), rows);
        }
        assert_eq!(asked(tower), expected, "{passes} at once");
    }
}

#[test]
fn a_pass_that_fails_does_not_touch_the_one_behind_it() {
    let tower = FakeTower { passes: 2, ..FakeTower::default() };
    // Of the seventh image no pass can be started, that of the eighth fails in the end.
    assert_eq!([NO_START, NO_END], [700.0, 800.0]);
    let (jobs, replies) = images(&[1; 10]);
    run_over(&tower, 1, jobs);
    let failed: Vec<usize> = (1..)
        .zip(replies)
        .filter_map(|(image, mut reply)| reply.try_recv().unwrap().is_err().then_some(image))
        .collect();
    assert_eq!(failed, [7, 8]);
}

#[test]
fn rows_are_projected_between_passes() {
    let tower = FakeTower { passes: 2, ..FakeTower::default() };
    let (mut jobs, _replies) = images(&[1, 1]);
    let (reply, mut projected) = oneshot::channel();
    let features = HostTensor::from_f32(vec![1, 1], vec![5.0]).unwrap();
    jobs.insert(1, Job::Project(ProjectJob { features: features.clone(), plan: plan(), reply }));
    run_over(&tower, 1, jobs);
    assert_eq!(projected.try_recv().unwrap(), Ok(features));
    assert_eq!(asked(tower), ["start 100", "project 5", "start 200", "finish 100", "finish 200"]);
}

#[test]
fn time_is_counted_once_however_many_passes_are_on_the_device() {
    let time = Duration::from_millis(2);
    for passes in [1, 2] {
        let tower = FakeTower { passes, time, ..FakeTower::default() };
        let (jobs, _replies) = images(&[1; 5]);
        let began = Instant::now();
        let busy = run_over(&tower, 1, jobs);
        // Each pass is counted in whole microseconds.
        let least = time * 5 - Duration::from_micros(5);
        assert!(busy >= least && busy <= began.elapsed(), "{busy:?} with {passes} at once");
    }
}

#[test]
fn rows_that_nobody_waits_for_are_not_projected() {
    let tower = FakeTower { passes: 1, ..FakeTower::default() };
    let (reply, projected) = oneshot::channel();
    let features = HostTensor::from_f32(vec![1, 1], vec![5.0]).unwrap();
    drop(projected);
    run_over(&tower, 1, vec![Job::Project(ProjectJob { features, plan: plan(), reply })]);
    assert!(asked(tower).is_empty());
}

#[test]
fn images_whose_callers_left_cost_nothing_however_many_wait_in_front_of_them() {
    let tower = FakeTower { passes: 1, ..FakeTower::default() };
    let (jobs, mut replies) = images(&[1; 9]);
    let kept = [replies.remove(8), replies.remove(0)];
    drop(replies);
    run_over(&tower, 1, jobs);
    assert_eq!(asked(tower), ["start 100", "finish 100", "start 900", "finish 900"]);
    assert!(kept.into_iter().all(|mut reply| reply.try_recv().unwrap().is_ok()));
}
