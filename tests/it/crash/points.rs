//! Every call of a creation, a change and a deletion, as a rehearsal recorded them, is a point at which things go wrong.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use identity_simulator::{Action, Call, Rule as Fault, When};
use stage::{Effect, Interceptor, Seen, interceptor::RuleId};
use tokio::time::{Duration, Instant, sleep};

use super::field::{Field, Mark, Plot, Wish, concerns};

/// What is going on when things go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Create,
    Change,
    Delete,
}

/// A call of a phase, by its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The n-th request about the object to the API server.
    ApiServer(usize, Seen),
    /// The n-th call to the object's tenant.
    Service(usize, Box<Call>),
    /// After the last one.
    End,
}

/// When things go wrong.
#[derive(Clone, Debug, PartialEq)]
enum Moment {
    /// The call is not carried out; its predecessor was carried out and answered.
    Before,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It is carried out when the successor has done its work.
    CommitsLate,
    /// It is carried out, and answered when the successor has done its work.
    AnswersLate,
    /// It fails like this, so many times in a row.
    Fails(Failing, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Failing {
    Refused(u16),
    RefusedAfterCommit(u16),
    DroppedBefore,
    DroppedAfter,
}

/// One thing that goes wrong with one object.
#[derive(Clone, Debug)]
struct Point {
    phase: Phase,
    place: Place,
    moment: Moment,
    /// The object is deleted while no operator runs.
    deleted_meanwhile: bool,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Create, Self::Change, Self::Delete];

    /// What is wished for before the phase, if anything, and in it.
    fn wishes(self) -> (Option<Wish>, Wish) {
        match self {
            Self::Create => (None, Wish::First),
            Self::Change => (Some(Wish::First), Wish::Second),
            Self::Delete => (Some(Wish::First), Wish::Gone),
        }
    }
}

impl Point {
    fn label(&self) -> String {
        let place = match &self.place {
            Place::ApiServer(number, seen) => format!("request {number}, {} {}/{}", seen.verb, seen.resource, seen.subresource),
            Place::Service(number, call) => format!("call {number}, {}", call.operation),
            Place::End => "the end".to_owned(),
        };
        let deleted = if self.deleted_meanwhile { ", deleted meanwhile" } else { "" };
        format!("{:?}, {place}, {:?}{deleted}", self.phase, self.moment)
    }

    fn outcome(&self) -> Wish {
        if self.deleted_meanwhile { Wish::Gone } else { self.phase.wishes().1 }
    }
}

/// What each phase asks of the API server and of the service.
type Calls = BTreeMap<Phase, (Vec<Seen>, Vec<Call>)>;

/// Plays each phase undisturbed and records it.
async fn rehearse(field: &mut Field) -> Calls {
    let plot = field.plots(1).await.remove(0);
    let mut recorded = Calls::new();
    for phase in Phase::ALL {
        let mark = field.mark().await;
        let wish = phase.wishes().1;
        field.wish(&plot, wish).await;
        field.settled(&[(&plot, wish)], |plot| plot.name.clone()).await;
        let calls = unchanging(field, &plot, &mark).await;
        field.check(&[(&plot, wish)], |plot| plot.name.clone()).await;
        assert!(!calls.0.is_empty() && !calls.1.is_empty(), "{phase:?} asks the API server and the service: {calls:?}");
        recorded.insert(phase, calls);
    }
    recorded
}

/// What was asked, once it grows no more (events come last).
async fn unchanging(field: &Field, plot: &Plot, since: &Mark) -> (Vec<Seen>, Vec<Call>) {
    loop {
        let before = field.requests(plot, since).len();
        sleep(Duration::from_millis(500)).await;
        let calls = field.calls(plot, since).await;
        let requests = field.requests(plot, since);
        if requests.len() == before && requests.iter().all(|seen| seen.status.is_some()) {
            return (requests, calls);
        }
    }
}

impl Place {
    fn all(calls: &(Vec<Seen>, Vec<Call>)) -> Vec<Self> {
        let requests = calls.0.iter().enumerate().map(|(number, seen)| Self::ApiServer(number, seen.clone()));
        requests.chain(calls.1.iter().enumerate().map(|(number, call)| Self::Service(number, Box::new(call.clone())))).collect()
    }

    fn changes_something(&self) -> bool {
        match self {
            Self::ApiServer(_, seen) => seen.is_write(),
            Self::Service(_, call) => call.method != "GET",
            Self::End => false,
        }
    }
}

/// A rule that makes a point happen to an object.
enum Trap {
    Request(RuleId),
    Call(u64),
}

/// Makes the points happen to their objects, from now on.
async fn set(field: &Field, points: &[(Plot, Point)]) -> Vec<Option<Trap>> {
    stream::iter(points)
        .map(|(plot, point)| async move {
            match &point.place {
                Place::ApiServer(number, _) => {
                    let name = plot.name.clone();
                    let (effect, times) = match point.moment {
                        Moment::Before | Moment::CommitsLate => (Effect::HoldBefore, 1),
                        Moment::AnswerLost | Moment::AnswersLate => (Effect::HoldAfter, 1),
                        Moment::Fails(Failing::Refused(status) | Failing::RefusedAfterCommit(status), times) => {
                            (Effect::Answer(status), times)
                        }
                        Moment::Fails(Failing::DroppedBefore, times) => (Effect::DropBefore, times),
                        Moment::Fails(Failing::DroppedAfter, times) => (Effect::DropAfter, times),
                    };
                    Some(Trap::Request(field.interceptor.intercept(move |seen| concerns(seen, &name), *number, times, effect)))
                }
                Place::Service(number, _) => {
                    let refused =
                        |when, status| Action::Answer { when, status, headers: BTreeMap::new(), body: r#"{"message":"not now"}"#.into() };
                    let (action, times) = match point.moment {
                        // The client's end releases a call that hangs, uncommitted.
                        Moment::Before => (Action::Hang { when: When::BeforeCommit }, 1),
                        Moment::AnswerLost => (Action::Hang { when: When::AfterCommit }, 1),
                        Moment::AnswersLate => (Action::Hold { when: When::AfterCommit }, 1),
                        Moment::CommitsLate => (Action::Hold { when: When::BeforeCommit }, 1),
                        Moment::Fails(Failing::Refused(status), times) => (refused(When::BeforeCommit, status), times),
                        Moment::Fails(Failing::RefusedAfterCommit(status), times) => (refused(When::AfterCommit, status), times),
                        Moment::Fails(Failing::DroppedBefore, times) => (Action::Drop { when: When::BeforeCommit }, times),
                        Moment::Fails(Failing::DroppedAfter, times) => (Action::Drop { when: When::AfterCommit }, times),
                    };
                    let fault = Fault::every("*", action).tenant(&plot.tenant).skip(*number as u64).times(times as u64);
                    Some(Trap::Call(field.inject(vec![fault]).await[0]))
                }
                Place::End => None,
            }
        })
        .buffered(16)
        .collect()
        .await
}

/// Waits until each point is reached.
async fn reached(field: &Field, points: &[(Plot, Point)], traps: &[Option<Trap>]) {
    stream::iter(points.iter().zip(traps))
        .for_each_concurrent(32, |((_, point), trap)| async move {
            match trap {
                Some(Trap::Request(rule)) => {
                    let hit = field.interceptor.fired(*rule).await;
                    let Place::ApiServer(_, planned) = &point.place else { return };
                    let is_the_one = (hit.verb, &hit.resource, &hit.subresource) == (planned.verb, &planned.resource, &planned.subresource);
                    assert!(is_the_one, "{}: met {hit}", point.label());
                }
                Some(Trap::Call(fault)) => {
                    field.stage.control.wait_for_fault(*fault).await.unwrap_or_else(|error| panic!("{}: {error}", point.label()));
                }
                None => {}
            }
        })
        .await;
}

/// Makes what each phase presupposes, and then lets all begin.
async fn begin(field: &Field, points: &[(Plot, Point)]) -> Vec<Option<Trap>> {
    let before: Vec<(&Plot, Wish)> = points.iter().filter_map(|(plot, point)| Some((plot, point.phase.wishes().0?))).collect();
    field.wish_all(before.iter().copied()).await;
    field.settled(&before, |plot| plot.name.clone()).await;
    field.quiet().await;
    let traps = set(field, points).await;
    field.wish_all(points.iter().map(|(plot, point)| (plot, point.phase.wishes().1))).await;
    traps
}

async fn plant(field: &mut Field, points: Vec<Point>) -> Vec<(Plot, Point)> {
    let plots = field.plots(points.len()).await;
    plots.into_iter().zip(points).collect()
}

/// Waits until all is settled, and checks it.
async fn judge(field: &Field, points: &[(Plot, Point)]) {
    let labels: BTreeMap<&str, String> = points.iter().map(|(plot, point)| (plot.name.as_str(), point.label())).collect();
    let label = |plot: &Plot| format!("{} ({})", labels[plot.name.as_str()], plot.name);
    let wishes: Vec<(&Plot, Wish)> = points.iter().map(|(plot, point)| (plot, point.outcome())).collect();
    field.settled(&wishes, label).await;
    field.check(&wishes, label).await;
    let gone: Vec<&Plot> = wishes.iter().filter(|(_, wish)| *wish == Wish::Gone).map(|(plot, _)| *plot).collect();
    field.without_secrets(&gone).await;
}

/// The crash points of issue 3, section 6: each object stands at another point of its creation, change or deletion when the operator is
/// killed (SIGKILL). "After a call" is "before the next one", and the end is a point of its own. Calls to the service also commit late, when
/// the successor has done its work; and each creation is also followed by a deletion while no operator runs.
///
/// Promises 1, 2, 4, 6 and 7.
///
/// Traps: T05.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_of_a_creation_change_or_deletion_the_operator_settles_to_one_working_registration() {
    let mut field = Field::new("killed").await;
    let operator = field.operator().await;
    let calls = rehearse(&mut field).await;
    let mut points = Vec::new();
    for (phase, calls) in &calls {
        let point = |place: &Place, moment| Point { phase: *phase, place: place.clone(), moment, deleted_meanwhile: false };
        for place in Place::all(calls) {
            points.push(point(&place, Moment::Before));
            points.push(point(&place, Moment::AnswerLost));
            if place.changes_something() && matches!(place, Place::Service(..)) {
                points.push(point(&place, Moment::CommitsLate));
            }
        }
        points.push(point(&Place::End, Moment::Before));
    }
    let created: Vec<Point> = points.iter().filter(|point| point.phase == Phase::Create).cloned().collect();
    points.extend(created.into_iter().map(|point| Point { deleted_meanwhile: true, ..point }));
    let points = plant(&mut field, points).await;

    let begun = Instant::now();
    let traps = begin(&field, &points).await;
    reached(&field, &points, &traps).await;
    let undisturbed: Vec<(&Plot, Wish)> =
        points.iter().filter(|(_, point)| point.place == Place::End).map(|(plot, point)| (plot, point.phase.wishes().1)).collect();
    field.settled(&undisturbed, |plot| plot.name.clone()).await;
    println!("{} points reached within {:?}", points.len(), begun.elapsed());
    operator.kill().await;
    field.wish_all(points.iter().filter(|(_, point)| point.deleted_meanwhile).map(|(plot, _)| (plot, Wish::Gone))).await;

    let operator = field.operator().await;
    operator.working().await;
    let living: Vec<&Plot> = points.iter().filter(|(_, point)| point.outcome() != Wish::Gone).map(|(plot, _)| plot).collect();
    stream::iter(living).for_each_concurrent(32, |plot| async { drop(field.stage.ready(&plot.name).await) }).await;
    // Now the calls that were held come to the service after all.
    field.stage.control.clear_faults().await.expect("the simulator answers");
    judge(&field, &points).await;
}

/// The leader is frozen (SIGSTOP) with each object at another point of its creation, change or deletion: inside a POST, a Secret apply and
/// every other call, before and after the commit. Another one takes over and finishes; then what was held is carried out or answered after all,
/// and the first one goes on: it finds that it no longer leads, and exits.
///
/// Promises 1, 2, 4, 6 and 7.
///
/// Traps: T33.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_frozen_inside_any_call_replaced_and_continued_breaks_nothing() {
    let mut field = Field::elected("frozen").await;
    let mut frozen = field.operator().await;
    let calls = rehearse(&mut field).await;
    let mut points = Vec::new();
    for (phase, calls) in &calls {
        for place in Place::all(calls).iter().filter(|place| place.changes_something()) {
            for moment in [Moment::CommitsLate, Moment::AnswersLate] {
                points.push(Point { phase: *phase, place: place.clone(), moment, deleted_meanwhile: false });
            }
        }
    }
    let points = plant(&mut field, points).await;
    let traps = begin(&field, &points).await;
    reached(&field, &points, &traps).await;
    frozen.freeze();
    let successor = Interceptor::start(field.stage.control_plane).await.expect("the interceptor starts");
    let _operator = field.operator_behind(&successor).await;
    let living: Vec<&Plot> = points.iter().filter(|(_, point)| point.outcome() != Wish::Gone).map(|(plot, _)| plot).collect();
    stream::iter(living).for_each_concurrent(32, |plot| async { drop(field.stage.ready(&plot.name).await) }).await;
    for trap in traps.iter().flatten() {
        match trap {
            Trap::Request(rule) => field.interceptor.release(*rule),
            Trap::Call(fault) => drop(field.stage.control.release(*fault).await.expect("the simulator answers")),
        }
    }
    let position = field.interceptor.position();
    frozen.thaw();
    let status = frozen.ended().await;
    assert!(!status.success(), "it lost the lease: {status}");
    // It may still tell of what it did, and try what is conditional; nothing of that may be taken.
    let is_taken = |seen: &&Seen| seen.is_write() && seen.resource != "events" && seen.status.is_some_and(|status| status < 300);
    let taken: Vec<String> = field.interceptor.seen_since(position).iter().filter(is_taken).map(ToString::to_string).collect();
    assert!(taken.is_empty(), "written by a process that no longer leads: {taken:#?}");
    judge(&field, &points).await;
}

/// The same calls fail, up to three times in a row, without a crash: refused, or the connection ends, before or after the commit.
///
/// Promises 1, 2, 4, 5, 6 and 7.
///
/// Traps: T05.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_call_fails_and_however_the_object_settles_to_one_working_registration() {
    let mut field = Field::new("failing").await;
    let _operator = field.operator().await;
    let calls = rehearse(&mut field).await;
    let mut points = Vec::new();
    for (phase, calls) in &calls {
        for place in Place::all(calls) {
            let mut failures = vec![(Failing::Refused(500), 1), (Failing::DroppedBefore, 1), (Failing::DroppedAfter, 1)];
            match place {
                Place::ApiServer(..) if place.changes_something() => {
                    failures.extend([(Failing::Refused(409), 1), (Failing::Refused(503), 3)])
                }
                Place::Service(..) if place.changes_something() => {
                    failures.extend([(Failing::RefusedAfterCommit(503), 1), (Failing::DroppedBefore, 2)]);
                }
                _ => {}
            }
            points.extend(failures.into_iter().map(|(failing, times)| Point {
                phase: *phase,
                place: place.clone(),
                moment: Moment::Fails(failing, times),
                deleted_meanwhile: false,
            }));
        }
    }
    let points = plant(&mut field, points).await;
    let traps = begin(&field, &points).await;
    reached(&field, &points, &traps).await;
    judge(&field, &points).await;
}
