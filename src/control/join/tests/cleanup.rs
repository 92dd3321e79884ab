//! The clean-up of tokens, scripts and records.

use super::*;

#[tokio::test(start_paused = true)]
async fn token_script_and_record_go_once_the_node_registered() {
    let world = World::new(config(JoinKind::K3s));
    let (mut machine, request) = world.requested("batch-1", 1);
    let hostname = request.hostname.clone().unwrap();
    world.payload(&request).await.unwrap();
    world.scripts.add("7", hostname);
    world.scripts.add("8", Hostname::new("batch-0-1"));
    world.bind(&mut machine);
    world.clean().await;
    assert_eq!((world.secrets().len(), world.scripts.count()), (1, 1), "it has not joined");
    world.join(&mut machine);
    world.clean().await;
    assert_eq!((world.secrets().len(), world.scripts.count()), (0, 0));
    let joins = world.joins();
    assert_eq!(joins.as_object().unwrap().keys().collect::<Vec<_>>(), ["payload.batch"]);
    assert!(joins["payload.batch"].as_str().unwrap().contains("joinedIssuedAt"), "{joins}");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_extended_until_its_vm_joined_or_is_late() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (mut machine, request) = world.requested("batch-1", 1);
    world.payload(&request).await.unwrap();
    for (minutes, want) in [(4, "03:34:05"), (21, "03:59:05"), (20, "04:19:05"), (20, "04:19:05")] {
        world.pass(minutes);
        world.clean().await;
        assert_eq!(world.expiration(), format!("2026-01-02T{want}Z"));
    }
    world.bind(&mut machine);
    world.delete(&mut machine);
    world.clean().await;
    assert!(world.secrets().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_extended_and_deleted_while_vpsie_is_down() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (mut ended, request) = world.requested("batch-1", 1);
    world.payload(&request).await.unwrap();
    world.scripts.add("7", request.hostname.unwrap());
    let (_, request) = world.requested("batch-2", 1);
    world.payload(&request).await.unwrap();
    world.bind(&mut ended);
    world.join(&mut ended);
    world.pass(20);
    let scripts = world.scripts.0.lock().unwrap().take();
    world.clean().await;
    assert_eq!(world.expiration(), "2026-01-02T03:54:05Z");
    assert!(world.joins().get("join.batch-1-1").is_none());
    assert!(world.joins().get("payload.batch").is_some(), "its outcome is counted");
    *world.scripts.0.lock().unwrap() = scripts;
    world.clean().await;
    assert_eq!(world.scripts.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_each_step_leaves_nothing_behind() {
    for (verb, plural) in
        [(Verb::Patch, "configmaps"), (Verb::Create, "configmaps"), (Verb::Create, "secrets")]
    {
        for fault in [RequestFault::refused(500), fake_kube::FaultEffect::ReplyLost.into()] {
            let world = World::new(config(JoinKind::Kubeadm));
            let (mut machine, request) = world.requested("batch-1", 1);
            world.kube.fail(1, move |asked| asked.is_verb_on(verb, plural), fault.clone());
            let failed = world.payload(&request).await;
            // The fake answers the patch of a missing ConfigMap with 404 even if its reply is lost.
            assert!(matches!(failed, Err(PayloadError::Unavailable(_))), "{verb:?} {plural} {failed:?}");
            machine.requests.clear();
            machine.phase = Phase::Pending;
            world.save(&machine);
            world.clean().await;
            assert!(world.secrets().is_empty(), "{verb:?} {plural}");
            assert!(world.joins().as_object().is_none_or(serde_json::Map::is_empty), "{verb:?} {plural}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_an_unreadable_record_is_deleted() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (_, request) = world.requested("batch-1", 1);
    world.payload(&request).await.unwrap();
    let token = field(&world.secrets()[0], "token-id");
    let data = json!({"join.batch-1-1": json!({"token": token}).to_string(), "join.batch-2-1": "?"});
    world.put("ConfigMap", NAMESPACE, "vpsie-autoscaler-joins", data);
    world.clean().await;
    assert_eq!(world.secrets(), Vec::<Value>::new());
    assert_eq!(world.joins(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn scripts_are_listed_only_if_there_may_be_any() {
    let world = World::new(config(JoinKind::Kubeadm));
    world.payloads.set_groups(BTreeMap::new());
    world.clean().await;
    assert_eq!(world.scripts.listings(), 0, "no NodeGroup is in force");
    let user_data = VmGroup { delivery: Delivery::UserData, ..vms() };
    let group = SelfManagedGroup { vms: user_data, join: config(JoinKind::Kubeadm) };
    world.payloads.set_groups([("batch".into(), group)].into());
    world.clean().await;
    assert_eq!(world.scripts.listings(), 1, "an earlier process may have left some");
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_deleted_node_group_is_removed() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (mut machine, request) = world.requested("batch-1", 1);
    world.payload(&request).await.unwrap();
    world.bind(&mut machine);
    world.join(&mut machine);
    world.clean().await;
    let record = world.joins()["payload.batch"].clone();
    let data = json!({"payload.batch": record, "payload.gone": record, "payload.invalid": record});
    world.put("ConfigMap", NAMESPACE, "vpsie-autoscaler-joins", data);
    let declaration = crate::fleet::Declaration {
        groups: vec![node_group()],
        without_spec: ["invalid".into()].into(),
        ..crate::fleet::Declaration::default()
    };
    world.handle.fleet.write().unwrap().declare(declaration);
    world.clean().await;
    let keys = |joins: Value| joins.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(world.joins()), ["payload.batch", "payload.invalid"]);
}
