//! Registrations of which nobody knows whether they happened, or when.

use identity_simulator::{Action, CallWait, LateAnswer, Rule as Fault, Until, When};
use stage::{Effect, Operator};

use super::field::{Field, Plot, Wish};

const CREATE: &str = "app_id.applications.create";

async fn one_plot(prefix: &str) -> (Field, Operator, Plot) {
    let mut field = Field::new(prefix).await;
    let operator = field.operator().await;
    let plot = field.plots(1).await.remove(0);
    (field, operator, plot)
}

async fn judge(field: &Field, plot: &Plot) {
    field.settled(&[(plot, Wish::First)], |plot| plot.name.clone()).await;
    field.check(&[(plot, Wish::First)], |plot| plot.name.clone()).await;
}

fn commits_late() -> Fault {
    Fault::next(CREATE, Action::CommitLate { answer: LateAnswer::Drop, until: Until::Released })
}

/// The service carries a registration out long after it dropped the connection, when a second one was made and is in use.
///
/// Promises 1 and 2.
#[tokio::test]
async fn a_registration_that_commits_late_is_removed_again_and_the_published_one_stays() {
    let (field, _operator, plot) = one_plot("late").await;
    let late = field.inject(vec![commits_late().tenant(&plot.tenant)]).await[0];
    field.wish(&plot, Wish::First).await;
    let ready = field.stage.ready(&plot.name).await;
    field.stage.control.release(late).await.expect("it commits");
    judge(&field, &plot).await;
    let settled = field.stage.applications().get(&plot.name).await.expect("the API server answers");
    let id = |object: &cloud_identity_operator::api::AppIdApplication| object.status.as_ref().and_then(|status| status.client_id.clone());
    assert_eq!(id(&settled), id(&ready), "the published registration is the one that stays");
    assert_eq!(field.stage.calls("app_id.applications.delete").await, 1);
}

/// The process dies after an unanswered registration, and again after it published a second one: only the Secret names that, and the first one
/// is still on its way.
///
/// Promises 1 and 2.
#[tokio::test]
async fn two_crashes_around_a_late_registration_leave_one() {
    let (field, operator, plot) = one_plot("twice").await;
    let late = field.inject(vec![commits_late().tenant(&plot.tenant)]).await[0];
    // The first process must not get as far as writing what it does not know into status.
    let name = plot.name.clone();
    field.interceptor.intercept(move |seen| seen.name == name && seen.subresource == "status", 0, 1, Effect::HoldBefore);
    field.wish(&plot, Wish::First).await;
    field.stage.control.wait_for_fault(late).await.expect("the registration is sent");
    operator.kill().await;
    let name = plot.name.clone();
    let published = field.interceptor.intercept(
        move |seen| seen.name == name && seen.resource == "secrets" && seen.is_write(),
        0,
        1,
        Effect::HoldAfter,
    );
    let operator = field.operator().await;
    field.interceptor.fired(published).await;
    operator.kill().await;
    let _operator = field.operator().await;
    field.stage.ready(&plot.name).await;
    field.stage.control.release(late).await.expect("it commits");
    judge(&field, &plot).await;
}

/// The answer is lost with the process, and the service's list does not show the new application yet: there are two for a while.
///
/// Promise 1.
///
/// Traps: T03.
#[tokio::test]
async fn a_list_that_does_not_show_the_newest_application_yet_costs_no_more_than_a_minute() {
    let (field, operator, plot) = one_plot("hidden").await;
    let lost = Fault::next(CREATE, Action::Hang { when: When::AfterCommit }).tenant(&plot.tenant);
    let hidden = Fault::next("app_id.applications.list", Action::WithoutNewest).tenant(&plot.tenant);
    let lost = field.inject(vec![lost]).await[0];
    field.wish(&plot, Wish::First).await;
    field.stage.control.wait_for_fault(lost).await.expect("the registration is sent");
    operator.kill().await;
    field.inject(vec![hidden]).await;
    let _operator = field.operator().await;
    field.stage.ready(&plot.name).await;
    assert_eq!(
        field.stage.control.applications(&plot.tenant).await.expect("the simulator answers").len(),
        3,
        "ours twice, and a stranger's"
    );
    judge(&field, &plot).await;
}

/// Right after a registration the service does not find it by its id (terraform-provider-ibm#4282).
///
/// Promises 1 and 5.
///
/// Traps: T03.
#[tokio::test]
async fn a_registration_that_is_not_found_right_after_it_was_made_is_not_made_again() {
    let (field, operator, plot) = one_plot("unfound").await;
    // Killed with the Secret published and status not written: the successor has to look the id up.
    let name = plot.name.clone();
    let published = field.interceptor.intercept(
        move |seen| seen.name == name && seen.resource == "secrets" && seen.is_write(),
        0,
        1,
        Effect::HoldAfter,
    );
    field.wish(&plot, Wish::First).await;
    field.interceptor.fired(published).await;
    operator.kill().await;
    let not_found =
        Action::Answer { when: When::BeforeCommit, status: 404, headers: Default::default(), body: r#"{"message":"not found"}"#.into() };
    let unfound = field.inject(vec![Fault::next("app_id.applications.get", not_found).tenant(&plot.tenant)]).await[0];
    let _operator = field.operator().await;
    field.stage.control.wait_for_fault(unfound).await.expect("it is looked for");
    judge(&field, &plot).await;
    assert_eq!(field.stage.calls(CREATE).await, 1, "registered once");
    field.stage.control.wait_for_calls(&CallWait::answered("app_id.applications.list", 1)).await.expect("a list was asked, too");
}

/// Kills at moments that depend on nothing but how much has been done: objects are made, changed and deleted meanwhile.
///
/// Promises 1, 2, 4, 6 and 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_crashes_in_a_row_settles_to_one_working_registration_each() {
    let mut field = Field::new("again").await;
    let mut operator = field.operator().await;
    let plots = field.plots(12).await;
    let (changed, rest) = plots.split_at(4);
    let (deleted, _) = rest.split_at(4);
    let wishes: Vec<(&Plot, Wish)> = plots
        .iter()
        .map(|plot| {
            let is_in = |group: &[Plot]| group.iter().any(|other| other.name == plot.name);
            (
                plot,
                if is_in(changed) {
                    Wish::Second
                } else if is_in(deleted) {
                    Wish::Gone
                } else {
                    Wish::First
                },
            )
        })
        .collect();
    field.wish_all(plots.iter().map(|plot| (plot, Wish::First))).await;
    // Any steps will do; these differ, and have no common measure.
    for (round, step) in [7, 19, 3, 31, 11, 2, 23, 13].into_iter().enumerate() {
        let goal = field.interceptor.position() + step;
        stage::eventually("more is done, or all", async || field.interceptor.position() >= goal || field.is_settled(&plots).await).await;
        operator.kill().await;
        match round {
            2 => field.wish_all(changed.iter().map(|plot| (plot, Wish::Second))).await,
            4 => field.wish_all(deleted.iter().map(|plot| (plot, Wish::Gone))).await,
            _ => {}
        }
        operator = field.operator().await;
    }
    field.settled(&wishes, |plot| plot.name.clone()).await;
    field.check(&wishes, |plot| plot.name.clone()).await;
    drop(operator);
}
