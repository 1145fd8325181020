//! IAM's token call as its sheet describes it.

use crate::world::{World, send, verified};
use identity_simulator::switches::{IamRefreshToken, IamTokenReuse};
use identity_simulator::{KeyEdit, KeySeed, Settings, Switches};
use serde_json::json;

#[tokio::test]
async fn a_key_becomes_a_token_with_the_documented_claims() {
    let world = World::new().await;
    let key = world.control.add_key(&KeySeed { name: "mine".to_owned(), ..KeySeed::default() }).await.expect("added");
    let body = send(world.iam_request(&key.value)).await.json();
    assert_eq!(body["refresh_token"], json!("not_supported"));
    assert_eq!((&body["token_type"], &body["expires_in"], &body["scope"]), (&json!("Bearer"), &json!(3600), &json!("ibm openid")));
    let keys = send(world.client.get(format!("{}/identity/keys", world.simulator.urls().iam))).await.json();
    assert!(keys["keys"][0].get("use").is_none());
    let (_, claims) = verified(body["access_token"].as_str().expect("a token"), &keys);
    assert_eq!(claims["iam_id"], json!(format!("iam-{}", key.identity)));
    assert_eq!((&claims["sub"], &claims["name"]), (&json!(key.identity), &json!("mine")));
    assert_eq!(claims["account"]["bss"], json!(key.account));
    assert_eq!(claims["iss"], json!(format!("{}/identity", world.simulator.urls().iam)));
    assert_eq!(claims["exp"], body["expiration"]);
    assert!(claims.get("aud").is_none() && claims.get("nbf").is_none());
}

#[tokio::test]
async fn two_tokens_of_one_second_differ_unless_switched() {
    let world = World::new().await;
    assert_ne!(world.iam_token(crate::world::WRITER).await, world.iam_token(crate::world::WRITER).await);
    let cached = Switches { iam_token_reuse: IamTokenReuse::UntilHalfLife, ..Switches::default() };
    world.control.set_switches(&cached).await.expect("set");
    assert_eq!(world.iam_token(crate::world::WRITER).await, world.iam_token(crate::world::WRITER).await);
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    let world = World::new().await;
    let disabled = world.control.add_key(&KeySeed { enabled: false, ..KeySeed::default() }).await.expect("added");
    let hidden = KeySeed { visible_after_milliseconds: 3_600_000, ..KeySeed::default() };
    let hidden = world.control.add_key(&hidden).await.expect("added");
    let url = format!("{}/oidc/token", world.simulator.urls().iam);
    for (request, status, code, reason) in [
        (world.iam_request("no-such-key"), 400, "BXNIM0415E", "unknown"),
        (world.iam_request(&disabled.value), 400, "BXNIM0462E", "disabled"),
        (world.iam_request(&hidden.value), 400, "BXNIM0415E", "not yet visible"),
        (world.iam_request(&format!("{}\n", crate::world::WRITER)), 400, "BXNIM0415E", "with a newline"),
        (world.client.post(&url).form(&[("apikey", "x")]), 400, "BXNIM0109E", "no grant type"),
        (world.client.post(&url).form(&[("grant_type", "magic")]), 400, "BXNIM0106E", "unknown grant type"),
        (world.client.post(&url).json(&json!({"grant_type": "x"})), 400, "BXNIM0109E", "JSON"),
        (world.client.get(&url), 405, "BXNIM0060E", "wrong method"),
        (world.iam_request(crate::world::WRITER).header("ibm-cloud-tenant", "other"), 400, "BXNIM0410E", "another account"),
    ] {
        let answer = send(request.header("transaction-id", "mine")).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["errorCode"]), (status, &json!(code)), "{reason}");
        assert_eq!(answer.json()["context"]["requestId"], json!("mine"), "{reason}");
        assert_eq!(answer.headers["transaction-id"], "mine", "{reason}");
    }
}

#[tokio::test]
async fn a_chunked_request_is_answered_as_if_it_were_empty() {
    let world = World::new().await;
    let form = format!("grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey={}", crate::world::WRITER);
    let body = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(form)]));
    let request = world.client.post(format!("{}/identity/token", world.simulator.urls().iam));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    assert_eq!(send(request).await.json()["errorCode"], json!("BXNIM0109E"));
}

#[tokio::test]
async fn a_registered_client_gets_a_refresh_token() {
    let world = World::new().await;
    let body = send(world.iam_request(crate::world::WRITER).basic_auth("bx", Some("bx"))).await.json();
    assert!(identity_simulator::is_marked(body["refresh_token"].as_str().expect("a token")));
    let absent = Switches { iam_refresh_token: IamRefreshToken::Absent, ..Switches::default() };
    world.control.set_switches(&absent).await.expect("set");
    assert!(send(world.iam_request(crate::world::WRITER)).await.json().get("refresh_token").is_none());
}

#[tokio::test]
async fn a_token_outlives_its_key_but_not_its_time() {
    let world = World::new().await;
    let key = world.control.keys().await.expect("keys").into_iter().find(|key| key.value == crate::world::WRITER).expect("the key");
    let back = |seconds| KeyEdit { enabled: Some(seconds), ..KeyEdit::default() };
    world.control.edit_key(&key.id, &back(false)).await.expect("disabled");
    assert_eq!(send(world.iam_request(&key.value)).await.json()["errorCode"], json!("BXNIM0462E"));
    world.control.edit_key(&key.id, &back(true)).await.expect("enabled");
    world.control.remove_key(&key.id).await.expect("removed");
    assert_eq!(send(world.iam_request(&key.value)).await.json()["errorCode"], json!("BXNIM0415E"));
    assert_eq!(world.get("/applications").await.status, 200);
    let later = Settings { clock_offset_seconds: 3601, ..Settings::default() };
    world.control.set_settings(&later).await.expect("set");
    assert_eq!(world.get("/applications").await.status, 401);
}
