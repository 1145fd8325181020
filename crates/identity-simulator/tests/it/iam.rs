//! IAM's token call as its sheet describes it.

use crate::keys::ClientKey;
use crate::world::{Answered, TENANT, World, send, verified};
use identity_simulator::switches::{IamBadComputeToken, IamProfileRefreshToken, IamRefreshToken, IamTokenReuse};
use identity_simulator::{
    AccessRole, KeyEdit, KeySeed, Profile, ProfileEdit, ProfileSeed, ServiceAccount, Settings, SigningAlgorithm, Switches,
};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

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

const PROFILE: &str = "Profile-11111111-2222-4333-8444-555555555555";

/// A profile that `ops/operator` may assume, and that may write to the tenant.
async fn profile(world: &World) -> Profile {
    let seed = ProfileSeed {
        id: PROFILE.to_owned(),
        name: "operators".to_owned(),
        subjects: [ServiceAccount { namespace: "ops".to_owned(), name: "operator".to_owned() }].into(),
        access: [(TENANT.to_owned(), AccessRole::Writer)].into(),
        ..ProfileSeed::default()
    };
    world.control.add_profile(&seed).await.expect("added")
}

/// What the cluster says of a service account.
fn projected(subject: &str) -> Value {
    let end = jiff::Timestamp::now().as_second() + 3600;
    json!({"iss": "https://cluster.test", "sub": subject, "aud": ["iam"], "exp": end, "kubernetes.io": {"pod": {"name": "pod-1"}}})
}

async fn assume(world: &World, by: (&str, &str), token: &str) -> Answered {
    let form = [("grant_type", "urn:ibm:params:oauth:grant-type:cr-token"), ("cr_token", token), by];
    send(world.client.post(format!("{}/identity/token", world.simulator.urls().iam)).form(&form)).await
}

#[tokio::test]
async fn a_service_account_assumes_its_profile_by_id_name_or_crn() {
    let world = World::new().await;
    let profile = profile(&world).await;
    let token = ClientKey::new(Algorithm::RS256).sign(&projected("system:serviceaccount:ops:operator"));
    for by in [("profile_id", PROFILE), ("profile_name", "operators"), ("profile_crn", profile.crn.as_str())] {
        let answer = assume(&world, by, &token).await;
        assert_eq!(answer.status, 200, "{by:?}: {}", answer.text);
        let body = answer.json();
        assert!(body.get("refresh_token").is_none(), "{by:?}");
        let keys = send(world.client.get(format!("{}/identity/keys", world.simulator.urls().iam))).await.json();
        let (_, claims) = verified(body["access_token"].as_str().expect("a token"), &keys);
        assert_eq!((&claims["sub"], &claims["sub_type"]), (&json!(PROFILE), &json!("Profile")), "{by:?}");
        assert_eq!((&claims["iam_id"], &claims["account"]["bss"]), (&json!(format!("iam-{PROFILE}")), &json!(profile.account)), "{by:?}");
        let listed = world.client.get(format!("{}/applications", world.management()));
        assert_eq!(send(listed.bearer_auth(body["access_token"].as_str().expect("a token"))).await.status, 200, "{by:?}");
    }
    let sent = world.control.last_token_request("iam", PROFILE).await.expect("a request");
    assert_eq!((sent.names(), sent.field("cr_token")), (vec!["grant_type", "cr_token", "profile_id"], Some(token.as_str())));
    let switches = Switches { iam_profile_refresh_token: IamProfileRefreshToken::NotSupported, ..Switches::default() };
    world.control.set_switches(&switches).await.expect("set");
    assert_eq!(assume(&world, ("profile_id", PROFILE), &token).await.json()["refresh_token"], json!("not_supported"));
    let short = ProfileEdit { expires_in: Some(60), ..ProfileEdit::default() };
    world.control.edit_profile(PROFILE, &short).await.expect("edited");
    assert_eq!(assume(&world, ("profile_id", PROFILE), &token).await.json()["expires_in"], json!(60));
}

#[tokio::test]
async fn a_profile_is_refused_to_everybody_else_with_its_code() {
    let world = World::new().await;
    profile(&world).await;
    let key = ClientKey::new(Algorithm::RS256);
    let own = projected("system:serviceaccount:ops:operator");
    let with = |name: &str, value: Value| {
        let mut claims = own.clone();
        claims[name] = value;
        key.sign(&claims)
    };
    for (by, token, code, reason) in [
        (("profile_id", PROFILE), key.sign(&projected("system:serviceaccount:ops:other")), "BXNIM0398E", "another service account"),
        (("profile_id", PROFILE), key.sign(&projected("system:serviceaccount:other:operator")), "BXNIM0398E", "another namespace"),
        (("profile_id", PROFILE), with("aud", json!("https://kubernetes.default.svc")), "BXNIM0398E", "another audience"),
        (("profile_id", PROFILE), with("exp", json!(1)), "BXNIM0398E", "over"),
        (("profile_id", "Profile-unknown"), key.sign(&own), "BXNIM0398E", "unknown profile"),
        (("profile_crn", "nonsense"), key.sign(&own), "BXNIM0113E", "no CRN"),
        (("profile_id", PROFILE), "nonsense".to_owned(), "BXNIM0401E", "no token"),
        (("profile_id", PROFILE), String::new(), "BXNIM0109E", "nothing"),
        (("scope", "ibm openid"), key.sign(&own), "BXNIM0109E", "no profile"),
    ] {
        let answer = assume(&world, by, &token).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["errorCode"]), (400, &json!(code)), "{reason}: {}", answer.text);
    }
    let refused = assume(&world, ("profile_id", PROFILE), &key.sign(&projected("system:serviceaccount:ops:other"))).await.json();
    assert!(refused["errorDetails"].as_str().expect("details").contains("tok2iks1:ops:other:pod-1"));
    let malformed = Switches { iam_bad_compute_token: IamBadComputeToken::Malformed, ..Switches::default() };
    world.control.set_switches(&malformed).await.expect("set");
    assert_eq!(assume(&world, ("profile_id", PROFILE), &with("exp", json!(1))).await.json()["errorCode"], json!("BXNIM0401E"));
}

#[tokio::test]
async fn a_projected_token_has_to_be_signed_where_the_keys_of_the_cluster_are_known() {
    let world = World::new().await;
    profile(&world).await;
    let (cluster, stranger) = (ClientKey::new(Algorithm::ES256), ClientKey::new(Algorithm::ES256));
    let claims = projected("system:serviceaccount:ops:operator");
    let edit = ProfileEdit { key_set: Some(json!({"keys": [cluster.jwk()]})), ..ProfileEdit::default() };
    world.control.edit_profile(PROFILE, &edit).await.expect("edited");
    assert_eq!(assume(&world, ("profile_id", PROFILE), &cluster.sign(&claims)).await.status, 200);
    assert_eq!(assume(&world, ("profile_id", PROFILE), &stranger.sign(&claims)).await.json()["errorCode"], json!("BXNIM0398E"));
    let hidden = ProfileEdit { visible_after_milliseconds: Some(3_600_000), ..ProfileEdit::default() };
    world.control.edit_profile(PROFILE, &hidden).await.expect("edited");
    assert_eq!(assume(&world, ("profile_id", PROFILE), &cluster.sign(&claims)).await.json()["errorCode"], json!("BXNIM0398E"));
}

#[tokio::test]
async fn iam_signs_with_the_curve_where_set_and_takes_both_signatures() {
    let world = World::new().await;
    let settings = Settings { signing: SigningAlgorithm::Es256, management_calls_per_second: 0, ..Settings::default() };
    world.control.set_settings(&settings).await.expect("set");
    let token = world.iam_token(crate::world::WRITER).await;
    let keys = send(world.client.get(format!("{}/identity/keys", world.simulator.urls().iam))).await.json();
    assert_eq!(verified(&token, &keys).0.alg, Algorithm::ES256);
    for token in [&token, &world.writer] {
        let listed = world.client.get(format!("{}/applications", world.management()));
        assert_eq!(send(listed.bearer_auth(token)).await.status, 200);
    }
}
