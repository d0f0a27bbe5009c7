use super::*;

/// Numbers that look drawn, the same for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    fn cost(&mut self, most: u64) -> Cost {
        Cost { tiles: self.below(4) as usize, tokens: 1 + self.below(most) as usize }
    }
}

fn whose(tenant: &str, weight: f64) -> Whose {
    Whose { tenant: tenant.into(), class: Class::Interactive, weight }
}

fn tokens(tokens: usize) -> Cost {
    Cost { tiles: 0, tokens }
}

fn tiles(tiles: usize) -> Cost {
    Cost { tiles, tokens: 100 }
}

/// The next one, where there is room for all.
fn serve<G>(line: &mut Line<G>) -> Option<(G, Cost)> {
    line.next(|_| Lacking::default()).ok()
}

/// A flow of the property, and what it was served.
struct Seen {
    whose: Whose,
    most: u64,
    waiting: Vec<(Place, u64)>,
    served: f64,
    /// Its largest request.
    largest: f64,
}

/// Runs one schedule: requests of random flows come, leave and are served. Whenever two flows have both had something waiting
/// since some moment, neither was served more than the other by more than one request of each, all by weight.
fn schedule(seed: u64) {
    let mut draw = Draw(seed);
    let (mut line, count) = (Line::new(), 2 + draw.below(4) as usize);
    let flow = |(number, draw): (usize, &mut Draw)| Seen {
        whose: whose(&number.to_string(), [0.25, 1.0, 1.0, 2.0, 5.0][draw.below(5) as usize]),
        most: 1 + draw.below(3000),
        waiting: Vec::new(),
        served: 0.0,
        largest: 0.0,
    };
    let mut flows: Vec<Seen> = Vec::new();
    for number in 0..count {
        flows.push(flow((number, &mut draw)));
    }
    // What each was served when the pair last began to wait together.
    let mut since = vec![vec![(0.0, 0.0); count]; count];
    let mut joined = 0;
    for _ in 0..600 {
        let index = draw.below(count as u64) as usize;
        match draw.below(8) {
            0..4 => {
                if flows[index].waiting.is_empty() {
                    for other in 0..count {
                        since[index][other] = (flows[index].served, flows[other].served);
                        since[other][index] = (flows[other].served, flows[index].served);
                    }
                }
                let cost = draw.cost(flows[index].most);
                let own = &mut flows[index];
                own.largest = own.largest.max(cost.work());
                own.waiting.push((line.join(&own.whose, cost, (index, joined)), joined));
                joined += 1;
            }
            4 => {
                let own = &mut flows[index].waiting;
                if !own.is_empty() {
                    let (place, name) = own.remove(draw.below(own.len() as u64) as usize);
                    assert_eq!(line.leave(place), Some((index, name)));
                    assert!(!line.holds(place));
                }
            }
            _ => {
                let Some(((index, name), cost)) = serve(&mut line) else {
                    assert!(flows.iter().all(|flow| flow.waiting.is_empty()), "seed {seed}: somebody is forgotten");
                    continue;
                };
                assert_eq!(flows[index].waiting.remove(0).1, name, "seed {seed}: first come, first served");
                flows[index].served += cost.work();
            }
        }
        assert_eq!(line.len(), flows.iter().map(|flow| flow.waiting.len()).sum::<usize>());
        for one in 0..count {
            for other in 0..count {
                let (a, b) = (&flows[one], &flows[other]);
                if one == other || a.waiting.is_empty() || b.waiting.is_empty() {
                    continue;
                }
                let by_weight = |flow: &Seen, since: f64| (flow.served - since) / flow.whose.weight;
                let (from_a, from_b) = since[one][other];
                let apart = (by_weight(a, from_a) - by_weight(b, from_b)).abs();
                let bound = a.largest / a.whose.weight + b.largest / b.whose.weight;
                assert!(apart <= bound + 1e-6, "seed {seed}: {apart} apart, the bound is {bound}");
            }
        }
    }
}

#[test]
fn flows_that_wait_are_served_by_weight_whatever_comes_and_leaves() {
    (0..500).for_each(schedule);
}

#[test]
fn a_flood_delays_only_itself() {
    let mut line = Line::new();
    for number in 0..1000 {
        line.join(&whose("flood", 1.0), tokens(500), number);
    }
    assert_eq!(serve(&mut line).unwrap().0, 0);
    line.join(&whose("quiet", 1.0), tokens(500), 5000);
    let turn = std::iter::from_fn(|| serve(&mut line)).position(|(name, _)| name == 5000).unwrap();
    assert!(turn <= 1, "it is served after {turn} of the flood");
}

#[test]
fn twice_the_weight_is_twice_the_work() {
    let mut line = Line::new();
    for _ in 0..300 {
        line.join(&whose("a", 2.0), tokens(100), 'a');
        line.join(&whose("b", 1.0), tokens(100), 'b');
    }
    let served: Vec<char> = (0..300).filter_map(|_| Some(serve(&mut line)?.0)).collect();
    let count = served.iter().filter(|&&name| name == 'a').count();
    assert!((199..=201).contains(&count), "{count}");
}

#[test]
fn a_batch_takes_what_is_left_and_a_small_share_in_any_case() {
    let mut line = Line::new();
    let batch = Whose { class: Class::Batch, ..whose("a", 1.0) };
    for _ in 0..900 {
        line.join(&batch, tokens(100), 'b');
        line.join(&whose("a", 1.0), tokens(100), 'i');
    }
    let served: Vec<char> = (0..900).filter_map(|_| Some(serve(&mut line)?.0)).collect();
    let count = served.iter().filter(|&&name| name == 'b').count();
    assert!((99..=101).contains(&count), "a ninth of the whole, not {count}");
}

#[test]
fn who_needs_a_pool_that_has_room_does_not_wait_for_the_other() {
    let mut line = Line::new();
    line.join(&whose("a", 1.0), tiles(5), "image 1");
    line.join(&whose("a", 1.0), tiles(1), "image 2");
    line.join(&whose("a", 1.0), tokens(100), "text 1");
    line.join(&whose("b", 1.0), tokens(100), "text 2");
    // The vision pool has room for two tiles: the second image does not overtake the first.
    let lacks = |cost: Cost| Lacking { vision: cost.tiles > 2, language: false };
    let mut served = Vec::new();
    let lacking = loop {
        match line.next(lacks) {
            Ok((name, _)) => served.push(name),
            Err(lacking) => break lacking,
        }
    };
    assert_eq!(served, ["text 1", "text 2"]);
    assert_eq!(lacking, Lacking { vision: true, language: false });
    let rest: Vec<_> = std::iter::from_fn(|| serve(&mut line)).map(|(name, _)| name).collect();
    assert_eq!(rest, ["image 1", "image 2"]);
}

#[test]
fn a_large_request_is_overtaken_no_longer_than_its_tenant_is_ahead() {
    let mut line = Line::new();
    line.join(&whose("a", 1.0), tiles(5), 'l');
    for _ in 0..100 {
        line.join(&whose("b", 1.0), tiles(1), 's');
    }
    // There is always room for a small one only; once the large one is first, it is waited for.
    let lacks = |cost: Cost| Lacking { vision: cost.tiles > 2, language: false };
    let overtaking = std::iter::from_fn(|| line.next(lacks).ok()).count();
    assert!(overtaking <= 1, "{overtaking} overtook it");
    assert_eq!(serve(&mut line).unwrap().0, 'l');
}

#[test]
fn what_is_ahead_of_a_request_is_what_is_served_before_it() {
    const MOST: u64 = 50;
    for seed in 0..300 {
        let mut draw = Draw(seed);
        let mut line = Line::new();
        let flows: Vec<Whose> = (0..4).map(|flow| whose(&flow.to_string(), 1.0 + draw.below(4) as f64)).collect();
        for _ in 0..400 {
            line.join(&flows[draw.below(4) as usize], tokens(1 + draw.below(MOST) as usize), false);
        }
        (0..draw.below(100)).for_each(|_| _ = serve(&mut line));
        let (own, cost) = (&flows[draw.below(4) as usize], tokens(1 + draw.below(MOST) as usize));
        let foreseen = line.ahead_of(own, cost);
        line.join(own, cost, true);
        assert_eq!(line.ahead_of(own, Cost::default()), foreseen, "in the line or before it, that is the same");
        let mut served = 0;
        while let Some((is_ours, cost)) = serve(&mut line) {
            served += cost.tokens;
            if is_ours {
                break;
            }
        }
        // Requests are served whole: of each of the others one more, or what fits beside ours less.
        let bound = 3.0 * (1.0 + 4.0) * MOST as f64;
        assert!((foreseen.tokens - served as f64).abs() <= bound, "seed {seed}: {foreseen:?}, {served}");
        assert_eq!(foreseen.tiles, 0.0);
    }
}

#[test]
fn the_last_one_of_whoever_has_most_waiting_gives_way() {
    let mut line = Line::new();
    line.join(&whose("heavy", 4.0), tokens(1000), "heavy");
    for number in 0..3 {
        line.join(&whose("flood", 1.0), tokens(100), ["first", "second", "third"][number]);
    }
    line.join(&whose("quiet", 1.0), tokens(200), "quiet");
    let names: Vec<_> = std::iter::from_fn(|| line.give_way()).map(|(_, _, name)| name).collect();
    assert_eq!(names, ["third", "heavy", "quiet", "second", "first"]);
    assert_eq!(line.len(), 0);
}

#[test]
fn what_is_remembered_of_tenants_who_do_not_come_back_has_a_bound() {
    let mut line = Line::new();
    for number in 0..10_000 {
        line.join(&whose(&number.to_string(), 1.0), tokens(100), number);
        if number > 10 {
            serve(&mut line);
        }
        assert!(line.flows.len() <= line.len() + IDLE + 1, "{} flows", line.flows.len());
    }
}
