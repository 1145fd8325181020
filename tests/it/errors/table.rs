//! Every operation the operator uses, with every fault: one row each, with a tenant, a key, a provider and an application of its own.

mod fault;
mod refresh_token;
mod row;
mod token;

use std::cell::{Cell, RefCell};

use futures::{StreamExt, stream};
use identity_simulator::Call;
use stage::Stage;

use self::{
    fault::{CREATE, DELETE, Fault, GET, IAM, LIST, Pause, Phase, QUICK, TOKEN, UPDATE},
    row::{Named, Row},
};

/// Runs all rows on one stage with one operator.
async fn all(phase: Phase, rows: Vec<(&'static str, Fault)>) {
    let stage = Stage::new(&format!("errors-{phase:?}").to_lowercase()).await;
    let chronicle = stage.chronicle().await;
    let operator = stage.operator().await;
    let named = RefCell::default();
    let mut failures: Vec<String> = stream::iter(rows.into_iter().enumerate())
        .map(|(number, (operation, fault))| {
            let name = format!("row-{number:03}");
            let tenant = format!("{number:08x}-1111-4222-8333-444444444444");
            let row = Row {
                stage: &stage,
                chronicle: &chronicle,
                named: &named,
                injected: Cell::default(),
                phase,
                operation,
                fault,
                tenant,
                name,
            };
            async move { row.play().await.err().map(|flaw| format!("{operation} × {fault:?}: {flaw}")) }
        })
        .buffer_unordered(64)
        .filter_map(futures::future::ready)
        .collect()
        .await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    failures.extend(named.into_inner().iter().flat_map(|named| flaws_of_time(named, &calls)));
    let noted = stage.control.noted().await.expect("the simulator answers");
    assert!(noted.is_empty(), "redirects are not followed: {noted:?}");
    let memory = operator.peak_memory();
    assert!(failures.is_empty(), "{} rows are not as they should be:\n{}", failures.len(), failures.join("\n"));
    assert!(memory < 256 << 20, "a body is not held as a whole: {memory} bytes");
}

/// What came too soon: the named attempt after the call that failed, or any call to a tenant that asked for a pause.
fn flaws_of_time(named: &Named, calls: &[Call]) -> Vec<String> {
    let Named { row, least, next, injected, fault, tenant } = named;
    let hits: Vec<&Call> = calls.iter().filter(|call| call.fault == Some(injected.id)).collect();
    let Some(first) = hits.first() else { return vec![format!("{row}: nobody met the fault")] };
    let mut flaws = Vec::new();
    let wait = next.duration_since(first.time).as_secs_f64();
    if wait < *least {
        flaws.push(format!("{row}: the next attempt was named for {wait} s after the call, not at least {least}"));
    }
    let Some(pause) = fault.pause() else { return flaws };
    if pause == Pause::UntilDate && *next < injected.date {
        flaws.push(format!("{row}: the next attempt was named for {next}, before {}", injected.date));
    }
    for hit in hits {
        let is_next = |call: &&Call| call.tenant.as_ref() == Some(tenant) && call.sequence > hit.sequence;
        let Some(call) = calls.iter().find(is_next) else { continue };
        let (until, slack) = match pause {
            Pause::For(told) => (hit.time + told, 0.0),
            // A server's own date is cut to the second, too.
            Pause::UntilDate => (injected.date, 1.0),
        };
        let early = until.duration_since(call.time).as_secs_f64();
        if early > slack {
            flaws.push(format!("{row}: {} was called {early} s before the pause was over", call.operation));
        }
    }
    flaws
}

fn product(operations: &[&'static str], faults: &[Fault]) -> Vec<(&'static str, Fault)> {
    operations.iter().flat_map(|operation| faults.iter().map(|fault| (*operation, *fault))).collect()
}

/// Promises 1, 2, 5 and 10: a registration ends in one application whatever the services answer, and the object says what is wrong and when it is tried again.
/// Traps: T02, T04, T30, T32, T58.
#[tokio::test]
async fn no_fault_while_an_application_is_made_leaves_two_or_a_false_ready() {
    let mut rows = product(&[IAM, "app_id.roles.list", CREATE, TOKEN], &QUICK);
    rows.extend(product(&["app_id.scopes.set", "app_id.redirect_uris.get", "app_id.redirect_uris.set"], &QUICK));
    rows.extend([(CREATE, Fault::Hang), (TOKEN, Fault::Drip), (IAM, Fault::Hang), (IAM, Fault::Drip)]);
    all(Phase::Creation, rows).await;
}

/// Promises 2, 5 and 10: whatever the service answers to a change, the Secret stays bit for bit and nothing is registered or deleted.
/// Traps: T02, T04, T07, T30, T51.
#[tokio::test]
async fn no_fault_while_an_application_changes_touches_its_secret_or_makes_another() {
    let reads = [GET, LIST, "app_id.scopes.get", "app_id.application_roles.get", "app_id.roles.list", "app_id.redirect_uris.get"];
    let writes = ["app_id.scopes.set", "app_id.application_roles.set", "app_id.redirect_uris.set", UPDATE];
    let mut rows = product(&reads, &QUICK);
    rows.extend(product(&writes, &QUICK));
    rows.extend(product(&[IAM], &QUICK));
    rows.extend([
        (GET, Fault::Drip),
        (LIST, Fault::Hang),
        ("app_id.scopes.get", Fault::Hang),
        ("app_id.redirect_uris.set", Fault::Hang),
        (IAM, Fault::Hang),
    ]);
    all(Phase::Change, rows).await;
}

/// Promises 5, 7 and 10: a deletion that fails keeps the object, says why, and ends once the service lets it.
/// Traps: T04, T19, T29, T30.
#[tokio::test]
async fn no_fault_while_an_application_is_deleted_leaves_it_behind_or_lets_the_object_go_too_early() {
    let mut rows = product(&[DELETE, LIST, IAM], &QUICK);
    rows.extend([(DELETE, Fault::Hang), (LIST, Fault::Hang)]);
    all(Phase::Deletion, rows).await;
}
