//! Tokens and the budget of their provider.

use cloud_identity_operator::api::AccessToken;
use futures::future::join_all;
use identity_simulator::{Action, Rule, When};
use serde_json::{Value, json};
use stage::{IAM, Stage, eventually, token_condition, token_message};

use super::{lifetime, of_iam};

/// The provider for IAM, with this budget.
async fn with_budget(stage: &Stage, budget: Value) {
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = budget;
    stage.apply(&document).await.expect("accepted");
}

/// Promise 3: whatever one provider's tokens need together is said before any of them comes too late.
#[tokio::test]
async fn a_budget_that_is_too_small_says_which_rate_is_needed() {
    let stage = Stage::new("budget").await;
    lifetime(&stage, 4).await;
    with_budget(&stage, json!({ "requestsPerSecond": 2 })).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    for number in 0..6 {
        stage.token(&format!("token-{number}"), of_iam()).await;
    }
    // Six tokens every 1.9 s or so.
    let mut ended = Vec::new();
    let is_said = |token: &AccessToken| token_condition(token, "Fresh") == Some(("False", "BudgetTooSmall"));
    eventually("one of them says what is needed", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let has_ended =
            |token: &&AccessToken| token_condition(token, "SecretPublished").is_some_and(|(_, reason)| reason == "TokenExpired");
        ended.extend(tokens.iter().filter(has_ended).filter_map(|token| token.metadata.name.clone()));
        tokens.iter().any(|token| is_said(token) && token_message(token, "Fresh").is_some_and(|said| said.contains("allows 2: raise")))
    })
    .await;
    assert!(ended.is_empty(), "it is said before anything ends: {ended:?}");
    with_budget(&stage, json!({ "requestsPerSecond": 50 })).await;
    eventually("none says so any more", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().all(|token| !is_said(token) && token_condition(token, "Fresh").is_some_and(|(status, _)| status == "True"))
    })
    .await;
}

/// The next process knows what its tokens need before it has replaced any.
#[tokio::test]
async fn a_budget_that_is_too_small_for_what_a_former_process_published_is_told_by_the_next_token() {
    let stage = Stage::new("budget-next").await;
    lifetime(&stage, 60).await;
    stage.iam().await;
    let operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    // One every 27 s or so.
    let names: Vec<String> = (0..36).map(|number| format!("token-{number}")).collect();
    join_all(names.iter().map(|name| stage.token(name, of_iam()))).await;
    join_all(names.iter().map(|name| stage.token_ready(name))).await;
    with_budget(&stage, json!({ "requestsPerSecond": 1 })).await;
    for name in &names {
        let generation = |token: &AccessToken| Some(token.status.as_ref()?.issued_for.as_ref()?.provider.generation);
        stage.token_where(name, "knows the provider as it is now", |token| generation(token) == Some(2)).await;
    }
    operator.kill().await;
    stage.token("next", of_iam()).await;
    let _operator = stage.operator().await;
    let token = stage.token_where("next", "says how fresh it is", |token| token_condition(token, "Fresh").is_some()).await;
    assert_eq!(token_condition(&token, "Fresh"), Some(("False", "BudgetTooSmall")), "{:?}", token_message(&token, "Fresh"));
}

/// What objects needed that were deleted while their tokens were fetched is needed no more.
#[tokio::test]
async fn a_token_that_was_deleted_while_it_was_fetched_takes_nothing_of_the_budget() {
    const GONE: usize = 3;
    let stage = Stage::new("budget-gone").await;
    lifetime(&stage, 4).await;
    with_budget(&stage, json!({ "requestsPerSecond": 1 })).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    // Each would need half a request a second.
    for number in 0..GONE {
        let name = format!("gone-{number}");
        let late = Action::Delay { when: When::AfterCommit, milliseconds: 1000 };
        let fault = stage.control.inject(&Rule::next("iam.token", late)).await.expect("accepted");
        stage.token(&name, of_iam()).await;
        stage.control.wait_for_fault(fault.id).await.expect("under way");
        stage.tokens().delete(&name, &Default::default()).await.expect("deleted");
    }
    stage.token("stays", of_iam()).await;
    let token = stage.token_where("stays", "says how fresh it is", |token| token_condition(token, "Fresh").is_some()).await;
    assert_eq!(token_condition(&token, "Fresh"), Some(("True", "Refreshed")), "{:?}", token_message(&token, "Fresh"));
}

/// Promise 9: where more refreshes are due than the budget allows, a token that nobody has yet is not put off for ever by those that have life
/// enough left.
#[tokio::test]
async fn a_new_token_gets_its_turn_although_more_refreshes_are_due_than_the_budget_allows() {
    // Fifty-two every ten seconds, and four a second: forty of them keep the service busy for ever.
    const TOKENS: usize = 52;
    let stage = Stage::new("share").await;
    lifetime(&stage, 3600).await;
    with_budget(&stage, json!({ "requestsPerSecond": 4, "concurrency": 1 })).await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let often = json!({ "providerRef": { "name": IAM }, "refresh": { "maxInterval": "10s" } });
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    futures::future::join_all(names.iter().map(|name| stage.token(name, often.clone()))).await;
    eventually("every one of them has its first token", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        let has_one = |token: &&AccessToken| token.status.as_ref().is_some_and(|status| status.expires_at.is_some());
        tokens.iter().filter(has_one).count() == TOKENS
    })
    .await;
    // It was as much as it was meant to be.
    eventually("one of them says that the budget is too small", async || {
        let tokens = stage.tokens().list(&Default::default()).await.expect("listed").items;
        tokens.iter().any(|token| token_condition(token, "Fresh") == Some(("False", "BudgetTooSmall")))
    })
    .await;
}
