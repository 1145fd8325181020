use super::*;
use proptest::prelude::*;

/// A name, and how urgent it is.
type Waiting = (&'static str, Urgency);

/// Serves everybody who waits, by name.
fn order(now: Instant, waiting: &[Waiting]) -> String {
    let mut line = Line::default();
    for (name, urgency) in waiting {
        line.join("ns", *urgency, *name);
    }
    let mut served = Vec::new();
    while let Some(name) = line.serve(now) {
        served.push(name);
    }
    assert!(line.is_empty());
    served.join(" ")
}

#[test]
fn one_of_four_turns_goes_to_those_who_have_nothing_yet_unless_a_token_is_about_to_end() {
    let now = Instant::now();
    let ends_in = |seconds| Urgency::Expiring(now + Duration::from_secs(seconds));
    let (far, near, ended) = (ends_in(60), ends_in(9), Urgency::Expiring(now));
    let (new, gone, drift) = (Urgency::Wanted, Urgency::Deletion, Urgency::Drift);
    let rows: [(&str, Vec<Waiting>, &str); 7] = [
        ("one of four", [("E", far); 8].into_iter().chain([("n", new); 3]).collect(), "E E E n E E E n E E n"),
        ("about to end", [("E", near); 5].into_iter().chain([("n", new); 2]).collect(), "E E E E E n n"),
        ("what ends first", vec![("later", ends_in(90)), ("n", new), ("E", far), ("soon", near)], "soon E later n"),
        ("after the rush the others are next", vec![("E", near); 4].into_iter().chain([("e", far), ("n", new)]).collect(), "E E E E n e"),
        ("what has ended shares, too", vec![("E", ended); 4].into_iter().chain([("n", new)]).collect(), "E E E n E"),
        ("a deletion has its share", vec![("E", far); 4].into_iter().chain([("d", gone), ("look", drift)]).collect(), "E E E d E look"),
        ("a drift check has none", vec![("E", far); 6].into_iter().chain([("look", drift)]).collect(), "E E E E E E look"),
    ];
    for (reason, waiting, expected) in rows {
        assert_eq!(order(now, &waiting), expected, "{reason}");
    }
}

#[test]
fn namespaces_take_turns_also_within_the_share() {
    let now = Instant::now();
    let mut line = Line::default();
    for _ in 0..9 {
        line.join("old", Urgency::Expiring(now + Duration::from_secs(3600)), "E");
    }
    for (namespace, name) in [("greedy", "g"), ("greedy", "g"), ("modest", "m")] {
        line.join(namespace, Urgency::Wanted, name);
    }
    let served: Vec<&str> = std::iter::from_fn(|| line.serve(now)).collect();
    assert_eq!(served.join(" "), "E E E g E E E m E E E g");
}

#[test]
fn who_leaves_is_not_served_and_leaves_once() {
    let now = Instant::now();
    let mut line = Line::default();
    let place = line.join("ns", Urgency::Wanted, 1);
    line.join("ns", Urgency::Wanted, 2);
    assert_eq!((line.leave(&place), line.leave(&place)), (Some(1), None));
    assert_eq!((line.serve(now), line.serve(now)), (Some(2), None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_128), ..ProptestConfig::default() })]

    /// Whoever comes and whenever turns come: nobody is served twice or forgotten; within a namespace what ends first comes first; a token that
    /// is about to end waits for nobody but tokens; and somebody without a token waits for at most three that could have waited or that have
    /// ended.
    #[test]
    fn nobody_starves_and_no_token_ends_for_the_sake_of_others(
        events in proptest::collection::vec((0_u8..6, 0_u64..120, 0_u8..3), 1..200),
    ) {
        let begun = Instant::now();
        let mut line = Line::default();
        let mut waiting: HashMap<usize, (u8, Urgency)> = HashMap::new();
        let mut passed_over = 0;
        let mut clock = Duration::ZERO;
        for (number, (kind, seconds, namespace)) in events.into_iter().enumerate() {
            clock += Duration::from_millis(500);
            let now = begun + clock;
            let urgency = match kind {
                0 | 1 => Urgency::Expiring(now + Duration::from_secs(seconds)),
                2 => Urgency::Wanted,
                3 => Urgency::Drift,
                _ => {
                    let served = line.serve(now);
                    prop_assert_eq!(served.is_some(), !waiting.is_empty());
                    let Some((of, urgency)) = served.map(|number: usize| waiting.remove(&number).expect("served once")) else { continue };
                    let mut first_ends: HashMap<u8, Instant> = HashMap::new();
                    for (of, waits) in waiting.values() {
                        if let Urgency::Expiring(ends) = waits {
                            first_ends.entry(*of).and_modify(|first| *first = (*ends).min(*first)).or_insert(*ends);
                        }
                    }
                    let somebody_has_none = waiting.values().any(|(_, waits)| *waits == Urgency::Wanted);
                    let may_wait = |ends: &Instant| *ends > now + ABOUT_TO_END || *ends <= now;
                    match urgency {
                        Urgency::Expiring(ends) => {
                            prop_assert!(first_ends.get(&of).is_none_or(|first| ends <= *first), "what ends first comes first");
                            passed_over = match (somebody_has_none, may_wait(&ends)) {
                                (true, true) => passed_over + 1,
                                (true, false) => passed_over,
                                (false, _) => 0,
                            };
                            prop_assert!(passed_over < SHARE, "somebody starves");
                        }
                        Urgency::Wanted => {
                            passed_over = 0;
                            prop_assert!(first_ends.is_empty() || first_ends.values().any(may_wait), "a token ends for the sake of others");
                        }
                        _ => prop_assert!(!somebody_has_none && first_ends.is_empty(), "a look can wait"),
                    }
                    continue;
                }
            };
            line.join(["a", "b", "c"][usize::from(namespace)], urgency, number);
            waiting.insert(number, (namespace, urgency));
        }
        while let Some(number) = line.serve(begun + clock) {
            prop_assert!(waiting.remove(&number).is_some());
        }
        prop_assert!(waiting.is_empty());
    }

    /// The best order there is: what ends first, always. Where it makes nobody late, nobody is late here.
    #[test]
    fn where_nobody_needs_to_be_late_nobody_is(arrivals in arrivals(8)) {
        let mut best = BTreeSet::new();
        let is_enough = replay(&arrivals, |now, joins| {
            best.extend(joins.iter().map(|(number, (_, ends))| (*ends, *number)));
            best.pop_first().is_none_or(|(ends, _)| ends > now + LATE)
        });
        let (mut line, mut ends_of) = (paced(), HashMap::new());
        let nobody_is_late = replay(&arrivals, |now, joins| {
            join(&mut line, &mut ends_of, joins);
            line.serve(now).is_none_or(|number| ends_of[&number] > now + LATE)
        });
        prop_assert!(nobody_is_late || !is_enough);
    }

    /// However many tokens the others have, and however short they live.
    #[test]
    fn who_has_one_token_at_a_time_is_never_late(arrivals in arrivals(2), rest in 0_u64..20) {
        let (mut line, mut ends_of, mut modest) = (paced(), HashMap::new(), None);
        let is_never_late = replay(&arrivals, |now, joins| {
            join(&mut line, &mut ends_of, joins);
            let end = *modest.get_or_insert_with(|| {
                let end = now + ON_THE_WAY + PACE * 6 + Duration::from_secs(rest);
                line.join("modest", Urgency::Expiring(end), usize::MAX);
                end
            });
            if line.serve(now) == Some(usize::MAX) {
                modest = None;
            }
            modest.is_none() || end > now + ON_THE_WAY
        });
        prop_assert!(is_never_late);
    }
}

const PACE: Duration = Duration::from_millis(500);
/// By then a turn of each of four namespaces, and the answer, are still to come.
const LATE: Duration = Duration::from_millis(2000 + 4 * 500);

/// A namespace, and for how many seconds its token still lives.
type Lives = (&'static str, u64);

/// A namespace, and an end.
type Arrival = (&'static str, Instant);

/// What comes before each turn: namespaces and lives in seconds.
fn arrivals(most_turns_between: usize) -> impl Strategy<Value = Vec<Vec<(usize, u64)>>> {
    let some = proptest::collection::vec((0_usize..3, 0_u64..60), 0..4);
    let none = proptest::collection::vec(Just(Vec::new()), 0..most_turns_between);
    proptest::collection::vec((some, none), 1..60)
        .prop_map(|turns| turns.into_iter().flat_map(|(some, none)| std::iter::once(some).chain(none)).collect())
}

/// Turn after turn, until all is done: whether all went well.
fn replay(arrivals: &[Vec<(usize, u64)>], mut turn: impl FnMut(Instant, &[(usize, Arrival)]) -> bool) -> bool {
    let begun = Instant::now();
    let (mut now, mut number) = (begun, 0);
    let total: usize = arrivals.iter().map(Vec::len).sum();
    (0..arrivals.len() + total).all(|at| {
        let come: Vec<(usize, Arrival)> = arrivals
            .get(at)
            .into_iter()
            .flatten()
            .map(|(namespace, seconds)| {
                number += 1;
                (number, (["a", "b", "c"][*namespace], now + Duration::from_secs(*seconds)))
            })
            .collect();
        let went_well = turn(now, &come);
        now += PACE;
        went_well
    })
}

fn paced() -> Line<usize> {
    let mut line = Line::default();
    line.expiring.pace = PACE;
    line
}

fn join(line: &mut Line<usize>, ends_of: &mut HashMap<usize, Instant>, joins: &[(usize, Arrival)]) {
    for (number, (namespace, ends)) in joins {
        line.join(namespace, Urgency::Expiring(*ends), *number);
        ends_of.insert(*number, *ends);
    }
}

#[test]
fn namespaces_take_turns_as_soon_as_somebody_will_be_late_and_not_before() {
    let rows: [(&str, u64, &[Lives], &str); 5] = [
        ("in time for all", 1, &[("greedy", 20), ("greedy", 21), ("greedy", 22), ("modest", 60)], "greedy greedy greedy modest"),
        ("what ends first, whosever it is", 1, &[("greedy", 60), ("modest", 30), ("greedy", 20)], "greedy modest greedy"),
        (
            "somebody will be late",
            10,
            &[("greedy", 31), ("greedy", 32), ("greedy", 33), ("greedy", 34), ("modest", 300), ("modest", 301)],
            "greedy modest greedy modest greedy greedy",
        ),
        ("short lives buy nothing", 1, &[("greedy", 0), ("greedy", 0), ("greedy", 0), ("modest", 300)], "greedy modest greedy greedy"),
        ("one namespace alone takes no turns", 10, &[("greedy", 9), ("greedy", 1), ("greedy", 5)], "greedy greedy greedy"),
    ];
    for (reason, pace, waiting, expected) in rows {
        let mut line = Line::default();
        line.expiring.pace = Duration::from_secs(pace);
        let mut now = Instant::now();
        for (namespace, seconds) in waiting {
            line.join(namespace, Urgency::Expiring(now + Duration::from_secs(*seconds)), *namespace);
        }
        let served: Vec<&str> = std::iter::from_fn(|| {
            let served = line.serve(now);
            now += Duration::from_secs(pace);
            served
        })
        .collect();
        assert_eq!(served.join(" "), expected, "{reason}");
    }
}

#[test]
fn who_goes_and_comes_again_has_the_last_turn() {
    let now = Instant::now();
    let mut line = Line::default();
    let ended = Urgency::Expiring(now);
    for name in ["a", "b", "b"] {
        line.join(name, ended, name);
    }
    for expected in ["a", "b", "a", "b"] {
        assert_eq!(line.serve(now), Some(expected));
        if expected == "a" {
            line.join("a", ended, "a");
        }
    }
}

/// A namespace with 200 tokens that live for 30 s needs three times the budget; its neighbour has six that live longer.
#[test]
fn a_namespace_that_needs_more_than_there_is_makes_no_token_of_its_neighbour_late() {
    let greedy = (0..200).map(|_| ("greedy", 30, 14));
    let modest = (0..6).map(|number| if number < 5 { ("modest", 3600, 1700) } else { ("modest", 300, 175) });
    let tokens: Vec<(&str, u64, u64)> = greedy.chain(modest).collect();
    let begun = Instant::now();
    let mut line = Line::default();
    let mut ends = vec![begun; tokens.len()];
    // Each comes into the line when it is due.
    let mut due: BTreeSet<(Instant, usize)> = BTreeSet::new();
    for (number, (_, lives, waits)) in tokens.iter().enumerate() {
        ends[number] = begun + Duration::from_secs(*lives);
        due.insert((begun + Duration::from_secs(*waits), number));
    }
    let (mut served, mut ended, mut now) = (HashMap::new(), 0, begun);
    while now < begun + Duration::from_secs(4 * 3600) {
        while let Some((at, number)) = due.pop_first().filter(|(at, number)| *at <= now || !due.insert((*at, *number))) {
            line.join(tokens[number].0, Urgency::Expiring(ends[number]), number);
            assert!(at <= now);
        }
        if let Some(number) = line.serve(now) {
            let (namespace, lives, waits) = tokens[number];
            *served.entry(namespace).or_insert(0) += 1;
            let rest = ends[number].saturating_duration_since(now);
            ended += u32::from(rest.is_zero());
            if namespace == "modest" {
                let left_when_due = Duration::from_secs(lives - waits);
                assert!(rest + Duration::from_secs(3) > left_when_due, "{rest:?} left of {lives} s, {left_when_due:?} when it was due");
            }
            ends[number] = now + Duration::from_secs(lives);
            due.insert((now + Duration::from_secs(waits), number));
        }
        now += Duration::from_millis(200);
    }
    assert!(served["modest"] >= 5 * 8 + 80, "{served:?}");
    assert!(served["greedy"] > 60_000 && ended > 60_000, "{served:?}, {ended} of them too late: there is too little for all");
}
