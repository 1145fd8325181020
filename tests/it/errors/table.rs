//! Every operation the operator uses, with every fault: one row each, with a tenant, a key, a provider and an application of its own.

mod fault;
mod row;

use std::cell::RefCell;

use futures::{StreamExt, stream};
use identity_simulator::Call;
use stage::Stage;

use self::{
    fault::{CREATE, DELETE, Fault, GET, IAM, LIST, Phase, QUICK, TOKEN, UPDATE},
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
            let row = Row { stage: &stage, chronicle: &chronicle, named: &named, phase, operation, fault, tenant, name };
            async move { row.play().await.err().map(|flaw| format!("{operation} × {fault:?}: {flaw}")) }
        })
        .buffer_unordered(64)
        .filter_map(futures::future::ready)
        .collect()
        .await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    for Named { row, tenant, operation, least, next } in named.into_inner() {
        let is_hit = |call: &&Call| call.tenant.as_ref() == Some(&tenant) && call.operation == operation && call.fault.is_some();
        let Some(call) = calls.iter().find(is_hit) else { continue };
        let wait = next.duration_since(call.time).as_secs_f64();
        if wait < least {
            failures.push(format!("{row}: the next attempt was named for {wait} s after the call, not at least {least}"));
        }
    }
    let noted = stage.control.noted().await.expect("the simulator answers");
    assert!(noted.is_empty(), "redirects are not followed: {noted:?}");
    let memory = operator.peak_memory();
    assert!(failures.is_empty(), "{} rows are not as they should be:\n{}", failures.len(), failures.join("\n"));
    assert!(memory < 256 << 20, "a body is not held as a whole: {memory} bytes");
}

fn product(operations: &[&'static str], faults: &[Fault]) -> Vec<(&'static str, Fault)> {
    operations.iter().flat_map(|operation| faults.iter().map(|fault| (*operation, *fault))).collect()
}

/// Promises 1, 2, 5 and 10: a registration ends in one application whatever the services answer, and the object says what is wrong and when it is tried again.
/// Traps: T02, T04, T30, T32, T58.
#[tokio::test]
async fn no_fault_while_an_application_is_made_leaves_two_or_a_false_ready() {
    let mut rows = product(&[IAM, "app_id.roles.list", CREATE, TOKEN], &QUICK);
    rows.extend([(CREATE, Fault::Hang), (TOKEN, Fault::Drip)]);
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
    rows.extend([(GET, Fault::Drip), ("app_id.scopes.get", Fault::Hang)]);
    all(Phase::Change, rows).await;
}

/// Promises 5, 7 and 10: a deletion that fails keeps the object, says why, and ends once the service lets it.
/// Traps: T04, T19, T29, T30.
#[tokio::test]
async fn no_fault_while_an_application_is_deleted_leaves_it_behind_or_lets_the_object_go_too_early() {
    let mut rows = product(&[DELETE, LIST], &QUICK);
    rows.push((DELETE, Fault::Hang));
    all(Phase::Deletion, rows).await;
}
