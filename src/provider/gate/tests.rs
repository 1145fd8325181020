use super::*;

const TEN: Budget = Budget { requests_per_second: 10, concurrency: 2 };

#[tokio::test(start_paused = true)]
async fn no_more_requests_start_than_the_budget_allows() {
    let gate = Gate::new(TEN);
    let begin = Instant::now();
    for _ in 0..22 {
        drop(gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused"));
    }
    assert_eq!(begin.elapsed().as_secs(), 2, "two at once, then ten a second");
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_in_flight_than_the_budget_allows() {
    let gate = Gate::new(TEN);
    let first = gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused");
    let second = gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused");
    let mut third = Box::pin(gate.enter("asking", "a", Urgency::Wanted));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut third).await.is_err());
    drop(first);
    assert!(third.await.is_ok());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn the_urgent_go_first_and_a_greedy_namespace_does_not_starve_the_others() {
    let gate = Gate::new(Budget { requests_per_second: 10, concurrency: 1 });
    let hold = gate.enter("asking", "x", Urgency::Wanted).await.expect("not paused");
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (namespace, urgency) in [
        ("greedy", Urgency::Wanted),
        ("greedy", Urgency::Wanted),
        ("greedy", Urgency::Wanted),
        ("modest", Urgency::Wanted),
        ("late", Urgency::Drift),
        ("later token", Urgency::Expiring(Instant::now() + Duration::from_secs(900))),
        ("token", Urgency::Expiring(Instant::now() + Duration::from_secs(300))),
    ] {
        let (gate, order) = (gate.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let _permit = gate.enter("asking", namespace, urgency).await.expect("not paused");
            order.lock().push(namespace);
        }));
        tokio::task::yield_now().await;
    }
    drop(hold);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock(), ["token", "later token", "greedy", "modest", "greedy", "greedy", "late"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_tells_everybody_when_to_come_again_also_those_who_wait() {
    let gate = Gate::new(Budget { requests_per_second: 10, concurrency: 1 });
    let hold = gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused");
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { gate.enter("asking", "b", Urgency::Wanted).await.map(drop) }
    });
    tokio::task::yield_now().await;
    gate.rate_limited(Some(Duration::from_secs(7)));
    let failure = waiting.await.expect("no panic").expect_err("paused");
    assert_eq!((failure.class, failure.retry_after), (Class::RateLimited, Some(Duration::from_secs(7))));
    assert!(gate.enter("asking", "c", Urgency::Expiring(Instant::now())).await.is_err());
    drop(hold);
    tokio::time::advance(Duration::from_secs(8)).await;
    assert!(gate.enter("asking", "c", Urgency::Wanted).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_no_length_is_a_pause() {
    let gate = Gate::new(TEN);
    gate.rate_limited(Some(Duration::ZERO));
    let failure = gate.enter("asking", "a", Urgency::Wanted).await.expect_err("paused");
    assert_eq!((failure.class, failure.retry_after), (Class::RateLimited, Some(PAUSE_LEAST)));
    tokio::time::advance(PAUSE_LEAST * 2).await;
    assert!(gate.enter("asking", "a", Urgency::Wanted).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_the_service_is_asked_half_as_often_and_as_often_as_before_when_it_has_answered_for_a_while() {
    let gate = Gate::new(Budget { requests_per_second: 10, concurrency: 1 });
    let second_of = async |requests: u32| {
        let begin = Instant::now();
        for _ in 0..requests {
            drop(gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused"));
        }
        begin.elapsed().as_secs_f64() / f64::from(requests)
    };
    for _ in 0..3 {
        gate.rate_limited(Some(Duration::from_secs(1)));
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!((second_of(20).await - 0.2).abs() < 0.02, "three answers to one burst are one request for a pause");
    for _ in 0..250 {
        gate.answered();
    }
    assert!((second_of(20).await - 0.1).abs() < 0.02);
    for _ in 0..20 {
        gate.rate_limited(Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    assert!(second_of(2).await < 3.3, "never less than a thirty-second part");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_after_failures_in_a_row_and_lets_one_request_find_out() {
    let gate = Gate::new(TEN);
    for _ in 0..BREAKER_OPENS_AFTER {
        gate.failed("no answer");
    }
    let told = gate.enter("asking", "a", Urgency::Wanted).await.expect_err("it is open");
    assert!(told.message.contains("no answer"), "it says why: {told}");
    tokio::time::advance(Duration::from_secs(2)).await;
    let probe = gate.enter("asking", "a", Urgency::Wanted).await.expect("the pause is over");
    assert!(tokio::time::timeout(Duration::from_secs(1), gate.enter("asking", "a", Urgency::Wanted)).await.is_err(), "one at a time");
    gate.answered();
    drop(probe);
    assert!(gate.enter("asking", "a", Urgency::Wanted).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_pause_goes_on_while_the_machine_sleeps() {
    let gate = Gate::new(TEN);
    gate.rate_limited(Some(Duration::from_secs(600)));
    gate.slept(Duration::from_secs(590), Instant::now());
    let told = gate.enter("asking", "a", Urgency::Wanted).await.expect_err("ten seconds are left");
    assert_eq!(told.retry_after, Some(Duration::from_secs(10)));
    tokio::time::advance(Duration::from_millis(1)).await;
    gate.slept(Duration::from_secs(36_000), Instant::now());
    assert!(gate.enter("asking", "a", Urgency::Wanted).await.is_ok());
    let awake = Instant::now();
    tokio::time::advance(Duration::from_millis(1)).await;
    gate.rate_limited(Some(Duration::from_secs(60)));
    gate.slept(Duration::from_secs(36_000), awake);
    assert!(gate.is_paused(), "one that began after the machine woke is whole");
}

#[tokio::test(start_paused = true)]
async fn a_few_to_whom_the_service_always_fails_stop_nobody_and_many_do() {
    let gate = Gate::new(TEN);
    for _ in 0..100 {
        for requester in ["a", "b", "c", "d"] {
            gate.failed_for(requester, "503");
        }
    }
    assert!(!gate.is_paused());
    gate.failed_for("e", "503");
    assert!(gate.is_paused(), "five requesters, and nobody was answered");
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(gate.enter("asking", "a", Urgency::Wanted).await.expect("one finds out"));
    gate.failed_for("a", "503");
    assert!(gate.is_paused(), "and it is not back");
    tokio::time::advance(Duration::from_secs(3)).await;
    gate.answered();
    for requester in ["a", "b", "c", "a", "b", "c"] {
        gate.failed_for(requester, "503");
    }
    assert!(!gate.is_paused(), "an answer begins anew");
    gate.failed("no answer");
    gate.failed("no answer");
    assert!(gate.is_paused(), "no answer at all counts each time");
}

#[test]
fn a_budget_lets_through_what_its_rate_and_its_concurrency_let_through() {
    let budget = Budget { requests_per_second: 10, concurrency: 4 };
    let mean = |seconds| Some(Duration::from_secs_f64(seconds));
    for (mean, rate) in [(None, (10.0, false)), (mean(0.1), (10.0, false)), (mean(0.4), (10.0, false)), (mean(2.0), (2.0, true))] {
        assert_eq!(budget.rate(mean), rate, "{mean:?}");
    }
}

#[tokio::test]
async fn how_long_a_request_takes_is_told_by_the_last_ones() {
    let gate = Gate::new(TEN);
    for _ in 1..CALLS_THAT_TELL {
        gate.took(Duration::from_secs(20));
        assert_eq!(gate.mean(), None, "a few tell nothing");
    }
    gate.took(Duration::from_secs(20));
    assert_eq!(gate.mean(), Some(Duration::from_secs(20)));
    for _ in 0..300 {
        gate.took(Duration::from_secs(1));
    }
    let mean = gate.mean().expect("it is known").as_secs_f64();
    assert!((1.0..1.1).contains(&mean), "what was long ago is forgotten: {mean}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_while_it_waits_costs_no_place() {
    let gate = Gate::new(Budget { requests_per_second: 1000, concurrency: 1 });
    let hold = gate.enter("asking", "a", Urgency::Wanted).await.expect("not paused");
    for _ in 0..10 {
        assert!(tokio::time::timeout(Duration::from_millis(5), gate.enter("asking", "a", Urgency::Wanted)).await.is_err());
    }
    drop(hold);
    assert!(tokio::time::timeout(Duration::from_secs(1), gate.enter("asking", "a", Urgency::Wanted)).await.is_ok());
}
