//! The ValidatingAdmissionPolicy of bootstrap tokens accepts what this program writes, and nothing else.

use cel::{Context, Program};
use data_encoding::BASE64;
use fake_kube::FakeKube;
use jiff::Timestamp;
use rand::rngs::SysRng;
use serde_json::{Value, json};

use super::*;

const POLICY: &str = include_str!("../../../deployments/components/self-managed/policy.yaml");
const ACCOUNT: &str = "system:serviceaccount:vpsie-system:vpsie-autoscaler";

struct Request {
    operation: &'static str,
    old: Option<Value>,
    new: Option<Value>,
}

fn evaluate(expression: &str, request: &Request, secrets: Option<&Value>) -> Value {
    let mut context = Context::default();
    let namespace = &request.new.as_ref().or(request.old.as_ref()).unwrap()["metadata"]["namespace"];
    let info = json!({
        "operation": request.operation, "namespace": namespace, "userInfo": {"username": ACCOUNT},
    });
    context.add_variable("request", info).unwrap();
    context.add_variable("object", &request.new).unwrap();
    context.add_variable("oldObject", &request.old).unwrap();
    context.add_variable("variables", json!({ "secrets": secrets })).unwrap();
    let value = Program::compile(expression).unwrap().execute(&context);
    // An error refuses the request (`failurePolicy: Fail`).
    value.map_or(Value::Bool(false), |value| value.json().unwrap())
}

/// The message of the first validation that refuses the request.
fn refusal(request: &Request) -> Option<String> {
    let policy: Value = serde_saphyr::from_multiple(POLICY).unwrap().remove(0);
    let spec = &policy["spec"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(evaluate(&text(&spec["matchConditions"][0]["expression"]), request, None), json!(true));
    let secrets = evaluate(&text(&spec["variables"][0]["expression"]), request, None);
    let validations = spec["validations"].as_array().unwrap();
    let refuses = |validation: &&Value| {
        evaluate(&text(&validation["expression"]), request, Some(&secrets)) != json!(true)
    };
    validations.iter().find(refuses).map(|validation| text(&validation["message"]))
}

/// The Secret that this program creates.
async fn created(group: TokenGroup) -> Value {
    let kube = FakeKube::new(|| Timestamp::UNIX_EPOCH);
    let token = BootstrapToken::generate(&mut SysRng).unwrap();
    let tokens = BootstrapTokens::new(kube.client("a", "ns"));
    tokens.create(&token, group, Timestamp::UNIX_EPOCH, &BTreeMap::new()).await.unwrap();
    kube.get("secrets", "kube-system", &secret_name(token.id())).unwrap()
}

fn changed(secret: &Value, pointer: &str, value: Value) -> Value {
    let mut secret = secret.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    secret.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
    secret
}

fn create(secret: Value) -> Option<String> {
    refusal(&Request { operation: "CREATE", old: None, new: Some(secret) })
}

fn update(old: &Value, new: Value) -> Option<String> {
    refusal(&Request { operation: "UPDATE", old: Some(old.clone()), new: Some(new) })
}

#[tokio::test]
async fn accepts_the_tokens_of_this_program() {
    for group in [TokenGroup::Kubeadm, TokenGroup::K3s, TokenGroup::Rke2] {
        let secret = created(group).await;
        assert_eq!(create(secret.clone()), None);
        let extended = changed(&secret, "/data/expiration", json!(BASE64.encode(b"2026-01-01T00:00:00Z")));
        assert_eq!(update(&secret, extended), None);
        assert_eq!(refusal(&Request { operation: "DELETE", old: Some(secret), new: None }), None);
    }
}

#[tokio::test]
async fn refuses_other_secrets() {
    let secret = created(TokenGroup::Kubeadm).await;
    let masters = json!(BASE64.encode(b"system:bootstrappers:masters"));
    for (pointer, value, want) in [
        ("/metadata/name", json!("bootstrap-token-x"), "only Secrets bootstrap-token-"),
        ("/metadata/namespace", json!("default"), "only Secrets bootstrap-token-"),
        ("/type", json!("kubernetes.io/service-account-token"), "only Secrets of the type"),
        ("/metadata/labels", json!({}), "only Secrets with its label"),
        ("/data/expiration", json!(""), "must have an expiration"),
        ("/data/auth-extra-groups", masters, "must have the group"),
        ("/data/description", json!("eA=="), "must not have other keys"),
    ] {
        let refusal = create(changed(&secret, pointer, value.clone())).unwrap();
        assert!(refusal.contains(want), "{pointer}: {refusal}");
        let foreign = changed(&secret, pointer, value);
        assert!(update(&secret, foreign.clone()).is_some(), "{pointer}");
        if !pointer.starts_with("/data") && pointer != "/metadata/namespace" {
            assert!(update(&foreign, secret.clone()).is_some(), "{pointer}: a Secret of another program");
            assert!(refusal_of_deletion(foreign).is_some(), "{pointer}");
        }
    }
    let mut without = secret.clone();
    without["data"].as_object_mut().unwrap().remove("expiration");
    assert!(create(without).unwrap().contains("must have an expiration"));
    let other = changed(&secret, "/data/token-secret", json!(BASE64.encode(b"0123456789abcdef")));
    assert!(update(&secret, other).unwrap().contains("only the expiration"));
}

fn refusal_of_deletion(secret: Value) -> Option<String> {
    refusal(&Request { operation: "DELETE", old: Some(secret), new: None })
}
