use super::*;

const ADD: &str = "POST **/add/slave/group/*";

async fn add_with_fault(rule: &str) -> (Simulator, Result<Reply, CallError>) {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    sim.add_fault(format!("{ADD} {rule}").parse().unwrap());
    let path = cluster_path(&format!("/add/slave/group/{group}"));
    let reply = try_send(&sim, request("POST", &path, None)).await;
    (sim, reply)
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_lost_reply_is_executed() {
    let (sim, reply) = add_with_fault("lost").await;
    assert_eq!((reply.err(), sim.worker_count()), (Some(CallError::Lost), 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_not_sent_is_not_executed() {
    let (sim, reply) = add_with_fault("not-sent").await;
    assert_eq!((reply.err(), sim.worker_count()), (Some(CallError::NotSent), 0));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_executed_twice() {
    let (sim, reply) = add_with_fault("duplicate").await;
    assert_eq!((reply.unwrap().status.as_u16(), sim.worker_count()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn a_status_replaces_the_reply_or_the_request() {
    let (sim, reply) = add_with_fault("status=429 retry-after=7 message=slow_down").await;
    let reply = reply.unwrap();
    assert_eq!((reply.status.as_u16(), sim.worker_count()), (429, 0));
    assert_eq!(
        (&reply.headers["retry-after"], &reply.body["message"]),
        (&"7".parse().unwrap(), &json!("slow down"))
    );
    let (sim, reply) = add_with_fault("status=500 done").await;
    assert_eq!((reply.unwrap().status.as_u16(), sim.worker_count()), (500, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_is_html() {
    let (sim, reply) = add_with_fault("html=502").await;
    let reply = reply.unwrap();
    assert_eq!((reply.status.as_u16(), sim.worker_count()), (502, 0));
    assert_eq!(reply.headers["content-type"], "text/html");
    assert!(reply.body.as_str().unwrap().contains("<h1>502 Bad Gateway</h1>"), "{}", reply.body);
    let (sim, _) = add_with_fault("html=502 done").await;
    assert_eq!(sim.worker_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delay_postpones_the_execution() {
    let (sim, reply) = add_with_fault("delay=10s").await;
    assert_eq!(reply.unwrap().status, 200);
    assert_eq!(workers(&sim)[0].vm.created_at.to_string(), "2026-03-01T12:00:10Z");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_follows_the_execution() {
    let before = tokio::time::Instant::now();
    let (sim, reply) = add_with_fault("slow=10s").await;
    assert_eq!(reply.unwrap().body["data"], true);
    assert_eq!(workers(&sim)[0].vm.created_at.to_string(), "2026-03-01T12:00:00Z");
    let elapsed = before.elapsed();
    assert!((9..=10).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_during_a_delay_is_not_executed() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    sim.add_fault(format!("{ADD} delay=1m").parse().unwrap());
    let path = cluster_path(&format!("/add/slave/group/{group}"));
    let call = sim.call(request("POST", &path, None));
    assert!(tokio::time::timeout(Duration::from_secs(30), call).await.is_err());
    pass(60).await;
    assert_eq!(sim.worker_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_spares_only_control_requests() {
    let sim = simulator(steady());
    sim.set_outage(true);
    let reply = try_send(&sim, request("GET", "/vm", None)).await;
    assert_eq!(reply.err(), Some(CallError::NotSent));
    let off = Request::put("/_simulator/outage").header("Content-Type", "application/json");
    let off = off.body(Bytes::from(r#"{"on":false}"#)).unwrap();
    assert_eq!(try_send(&sim, off).await.unwrap().status, 200);
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn faults_do_not_change_names() {
    let names = async |faults: &[&str]| {
        let faults = faults.iter().map(|rule| rule.parse().unwrap()).collect();
        let sim = simulator(SimulatorConfig { faults, ..steady() });
        let group = add_group(&sim, "workers", 2).await;
        add_worker(&sim, group).await;
        workers(&sim)[0].vm.hostname.clone()
    };
    assert_eq!(names(&[]).await, names(&["GET ** lost p=0.5", "POST ** delay=1s p=0.5"]).await);
}
