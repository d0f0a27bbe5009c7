//! A simulated cluster: a hundred workers near their capacity, asked about images and by conversations of which a few
//! are very popular. No network, no clock, the same numbers each time; `--nocapture` shows the tables.

mod account;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::RandomState;
use std::num::NonZeroUsize;

use tessera_anyres::ImageSize;
use tessera_api::language::{ImageReference, Load};

use super::balance::{Placed, Work, place};
use super::language::Language;
use super::member::Member;
use super::*;
use crate::tests::dice::Dice;

const WORKERS: usize = 100;

impl Dice {
    /// Time to the next arrival, in milliseconds, when there are so many in one.
    fn pause(&mut self, per_millisecond: f64) -> f64 {
        -(1.0 - self.share()).ln() / per_millisecond
    }
}

/// Numbers below a limit, of which the first are drawn most often.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(limit: usize, exponent: f64) -> Self {
        let weights = (1..=limit).map(|rank| (rank as f64).powf(-exponent));
        Self(
            weights
                .scan(0.0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                })
                .collect(),
        )
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let share = dice.share() * self.0[self.0.len() - 1];
        self.0.partition_point(|sum| *sum < share)
    }
}

/// What a worker keeps: what was used last, up to a limit.
struct Kept {
    limit: usize,
    total: usize,
    clock: u64,
    used: HashMap<u64, (u64, usize)>,
    order: BTreeMap<u64, u64>,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { limit, total: 0, clock: 0, used: HashMap::new(), order: BTreeMap::new() }
    }

    /// Uses something of this size; returns whether it was there.
    fn take(&mut self, name: u64, size: usize) -> bool {
        self.clock += 1;
        let before = self.used.insert(name, (self.clock, size));
        self.order.insert(self.clock, name);
        match before {
            Some((at, _)) => _ = self.order.remove(&at),
            None => self.total += size,
        }
        while self.total > self.limit {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.total -= self.used.remove(&oldest).unwrap().1;
        }
        before.is_some()
    }
}

/// A worker that does one thing after the other, and the ends of what it has.
struct Server {
    ends: VecDeque<f64>,
    busy: f64,
    kept: Kept,
}

impl Server {
    fn all(limit: usize) -> Vec<Self> {
        (0..WORKERS).map(|_| Self { ends: VecDeque::new(), busy: 0.0, kept: Kept::new(limit) }).collect()
    }

    /// What it has now.
    fn in_flight(&mut self, now: f64) -> usize {
        while self.ends.front().is_some_and(|end| *end <= now) {
            self.ends.pop_front();
        }
        self.ends.len()
    }

    /// Does something that takes so long; returns when it begins and ends.
    fn serve(&mut self, now: f64, time: f64) -> (f64, f64) {
        let begin = self.ends.back().copied().unwrap_or(now).max(now);
        self.ends.push_back(begin + time);
        self.busy += time;
        (begin, begin + time)
    }
}

/// What came of one way to choose.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Share of the work that was there already.
    hits: f64,
    /// Load of the busiest worker, as a multiple of the mean.
    peak: f64,
    /// The longest wait but for one in a hundred, in milliseconds.
    wait: f64,
}

impl Outcome {
    fn of(servers: &[Server], hits: f64, mut waits: Vec<f64>) -> Self {
        let busiest = servers.iter().map(|server| server.busy).fold(0.0, f64::max);
        let mean = servers.iter().map(|server| server.busy).sum::<f64>() / servers.len() as f64;
        waits.sort_by(f64::total_cmp);
        Self { hits, peak: busiest / mean, wait: waits[waits.len() * 99 / 100] }
    }

    fn print(&self, way: &str) {
        println!("{way:<14} {:>8.1} % {:>10.2} {:>12.0} ms", 100.0 * self.hits, self.peak, self.wait);
    }
}

/// The ways to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Ours,
    Random,
    LeastLoaded,
}

/// Runs all ways with so many arrivals in a millisecond, prints what came of them; ours comes first.
fn compare(title: &str, rate: f64, run: impl Fn(Way, f64) -> Outcome) -> [Outcome; 3] {
    println!("{title}, {:.0} a second\n{:>25} {:>10} {:>15}", rate * 1000.0, "hits", "max/mean", "p99 wait");
    [(Way::Ours, "ours"), (Way::Random, "random"), (Way::LeastLoaded, "least loaded")].map(|(way, name)| {
        let outcome = run(way, rate);
        outcome.print(name);
        outcome
    })
}

/// Images that are asked for by as many as are popular, encoded by workers that keep 25 each, half of all.
fn images(way: Way, rate: f64) -> Outcome {
    const IMAGES: usize = 5000;
    const REQUESTS: usize = 40_000;
    let (mut dice, zipf) = (Dice(7), Zipf::new(IMAGES, 0.9));
    let urls: Vec<String> = (0..WORKERS).map(|index| format!("http://vision-{index}:50052")).collect();
    let mut orders: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut lately: HashMap<usize, (usize, f64)> = HashMap::new();
    let mut servers = Server::all(25);
    let (mut now, mut hits, mut waits) = (0.0, 0, Vec::new());
    for number in 0..REQUESTS {
        if number == REQUESTS / 2 {
            servers.iter_mut().for_each(|server| server.busy = 0.0);
        }
        // An encoding takes 100 ms, one that is kept 2 ms.
        now += dice.pause(rate);
        let image = zipf.draw(&mut dice);
        let in_flight: Vec<usize> = servers.iter_mut().map(|server| server.in_flight(now)).collect();
        let worker = match way {
            Way::Random => dice.below(WORKERS),
            Way::LeastLoaded => {
                let first = dice.below(WORKERS);
                (0..WORKERS).map(|step| (first + step) % WORKERS).min_by_key(|&index| in_flight[index]).unwrap()
            }
            Way::Ours => {
                let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), &image.to_le_bytes());
                let order =
                    orders.entry(image).or_insert_with(|| rendezvous::order(urls.iter().map(String::as_str), &key));
                let fresh = lately.get(&image).filter(|(_, noted)| now - noted < 10_000.0).map(|place| place.0);
                fresh.or_else(|| rendezvous::bounded(order, |index| in_flight[index])).unwrap()
            }
        };
        if lately.get(&image).is_none_or(|(before, noted)| *before != worker || now - noted >= 10_000.0) {
            lately.insert(image, (worker, now));
        }
        let hit = servers[worker].kept.take(image as u64, 1);
        let (begin, _) = servers[worker].serve(now, if hit { 2.0 } else { 100.0 });
        if number >= REQUESTS / 2 {
            hits += usize::from(hit);
            waits.push(begin - now);
        }
    }
    Outcome::of(&servers, hits as f64 / waits.len() as f64, waits)
}

#[test]
fn images_find_what_is_kept_of_them_and_no_worker_drowns() {
    // Near what the pool can do by ours: it is far more than it can do by the others.
    let [ours, others @ ..] = compare("images", 2.2, images);
    for other in others {
        assert!(ours.hits > other.hits + 0.2, "{ours:?} {other:?}");
        assert!(ours.wait * 4.0 < other.wait, "{ours:?} {other:?}");
    }
    assert!(ours.peak < 2.0, "{ours:?}");
    // Near what it can do by the others.
    let [ours, others @ ..] = compare("images", 1.0, images);
    assert!(others.iter().all(|other| ours.hits > other.hits + 0.2), "{ours:?} {others:?}");
    assert!(ours.wait < 200.0 && ours.wait * 2.0 < others[0].wait, "{ours:?} {others:?}");
}

/// A conversation: what was said about an image so far.
#[derive(Clone, Debug)]
struct Conversation {
    name: u64,
    image: usize,
    turns: usize,
}

/// Positions of an image, of a question and its answer, and of what every prompt begins with.
const IMAGE: usize = 1000;
const TURN: usize = 120;
const SYSTEM: usize = 96;
/// Positions that a worker has room for.
const ROOM: usize = 48 << 10;

impl Conversation {
    /// What stands in the prompt, in order: names and positions.
    fn parts(&self) -> impl Iterator<Item = (u64, usize)> {
        let turns = (0..=self.turns as u64).map(|turn| ((self.name << 8) | turn, TURN));
        [(u64::MAX, SYSTEM), (u64::MAX - 1 - self.image as u64, IMAGE)].into_iter().chain(turns)
    }

    fn request(&self) -> GenerateRequest {
        let mut ids = vec![1; SYSTEM];
        ids.resize(SYSTEM + IMAGE, 0);
        ids.extend((0..=self.turns).flat_map(|turn| [(self.name as u32) << 8 | turn as u32; TURN]));
        let image = ImageReference {
            key: ImageKey::of(b"", &EncoderFingerprint::of(&[]), &self.image.to_le_bytes()),
            positions: SYSTEM..SYSTEM + IMAGE,
            image_size: ImageSize { height: 1, width: 1 },
            store: String::new(),
            is_stored: false,
        };
        GenerateRequest { images: vec![image], ..GenerateRequest::greedy(ids, NonZeroUsize::new(60).unwrap()) }
    }
}

/// What a worker of this state reports.
fn load(server: &mut Server, now: f64) -> Load {
    let open = server.in_flight(now);
    let held = open * (SYSTEM + IMAGE + 4 * TURN);
    Load {
        total_blocks: ROOM / 32,
        free_blocks: ROOM.saturating_sub(held) / 32,
        waiting: open.saturating_sub(1),
        running: open.min(1),
        ..Load::default()
    }
}

/// Conversations about images, of which some are popular and some go on for long.
fn conversations(way: Way, rate: f64) -> Outcome {
    const TURNS: usize = 12_000;
    let (mut dice, state) = (Dice(11), RandomState::new());
    let (popular, talkative) = (Zipf::new(2000, 0.9), Zipf::new(800, 0.6));
    let members: Vec<Arc<Member<Language>>> = (0..WORKERS)
        .map(|index| Member::new(format!("http://language-{index}:1").into(), &ClientTls::default()).unwrap())
        .collect();
    let mut names = 0;
    let mut begin = |dice: &mut Dice| {
        names += 1;
        Conversation { name: names, image: popular.draw(dice), turns: 0 }
    };
    let mut talks: Vec<Conversation> = (0..800).map(|_| begin(&mut dice)).collect();
    let mut servers = Server::all(ROOM);
    let mut placed: Vec<(f64, Placed)> = Vec::new();
    let (mut now, mut reported, mut waits) = (0.0, f64::NEG_INFINITY, Vec::new());
    let (mut asked, mut there) = (0, 0);
    for number in 0..TURNS {
        if number == TURNS / 2 {
            servers.iter_mut().for_each(|server| server.busy = 0.0);
        }
        now += dice.pause(rate);
        placed.retain(|(end, _)| *end > now);
        if now - reported >= 200.0 {
            reported = now;
            servers.iter_mut().zip(&members).for_each(|(server, member)| member.notes.report(load(server, now)));
        }
        let talk = talkative.draw(&mut dice);
        let conversation = talks[talk].clone();
        talks[talk].turns += 1;
        if dice.share() < 0.15 {
            talks[talk] = begin(&mut dice);
        }
        let request = match way {
            Way::Ours => conversation.request(),
            // Nothing is known of what it begins with.
            _ => GenerateRequest::greedy(vec![0; 32], NonZeroUsize::new(60).unwrap()),
        };
        let drawn = dice.below(WORKERS);
        let candidates = if way == Way::Random { &members[drawn..=drawn] } else { &members[..] };
        let place = place(candidates, &Work::of(&request, &state), dice.roll()).unwrap();
        let worker = members.iter().position(|member| Arc::ptr_eq(member, &place.in_flight.0)).unwrap();
        let (mut prompt, mut cached, mut whole) = (0, 0, true);
        for (name, positions) in conversation.parts() {
            whole &= servers[worker].kept.take(name, positions);
            prompt += positions;
            cached += if whole { positions } else { 0 };
        }
        // A tenth of a millisecond a position, and one a token of the answer.
        let (begin, end) = servers[worker].serve(now, 0.1 * (prompt - cached) as f64 + 60.0);
        placed.push((end, place));
        if number >= TURNS / 2 {
            (asked, there) = (asked + prompt, there + cached);
            waits.push(begin - now);
        }
    }
    Outcome::of(&servers, there as f64 / asked as f64, waits)
}

#[tokio::test]
async fn conversations_find_their_prefixes_and_no_worker_drowns() {
    // Near what the pool can do by ours, as above.
    let [ours, others @ ..] = compare("conversations", 1.0, conversations);
    for other in others {
        assert!(ours.hits > other.hits + 0.2, "{ours:?} {other:?}");
        assert!(ours.wait * 4.0 < other.wait, "{ours:?} {other:?}");
    }
    assert!(ours.peak < 1.5, "{ours:?}");
    // Near what it can do by the others.
    let [ours, others @ ..] = compare("conversations", 0.45, conversations);
    assert!(others.iter().all(|other| ours.hits > other.hits + 0.2), "{ours:?} {others:?}");
    assert!(ours.wait < 300.0 && ours.wait * 2.0 < others[0].wait, "{ours:?} {others:?}");
}
