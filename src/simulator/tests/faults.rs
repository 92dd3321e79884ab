use super::*;

const ADD: &str = "POST **/add/slave/group/*";

async fn struck(rule: &str) -> (Simulator, Result<Reply, CallError>) {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    sim.add_fault(format!("{ADD} {rule}").parse().unwrap());
    let path = cluster_path(&format!("/add/slave/group/{group}"));
    let reply = try_send(&sim, request("POST", &path, None)).await;
    (sim, reply)
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_the_work_done() {
    let (sim, reply) = struck("lost").await;
    assert_eq!((reply.err(), sim.worker_count()), (Some(CallError::Lost), 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_not_sent_does_nothing() {
    let (sim, reply) = struck("not-sent").await;
    assert_eq!((reply.err(), sim.worker_count()), (Some(CallError::NotSent), 0));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_done_twice() {
    let (sim, reply) = struck("duplicate").await;
    assert_eq!((reply.unwrap().status.as_u16(), sim.worker_count()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn a_status_comes_before_or_after_the_work() {
    let (sim, reply) = struck("status=429 retry-after=7 message=slow_down").await;
    let reply = reply.unwrap();
    assert_eq!((reply.status.as_u16(), sim.worker_count()), (429, 0));
    assert_eq!(
        (&reply.headers["retry-after"], &reply.body["message"]),
        (&"7".parse().unwrap(), &json!("slow down"))
    );
    let (sim, reply) = struck("status=500 done").await;
    assert_eq!((reply.unwrap().status.as_u16(), sim.worker_count()), (500, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_is_html() {
    let (sim, reply) = struck("html=502").await;
    let reply = reply.unwrap();
    assert_eq!((reply.status.as_u16(), sim.worker_count()), (502, 0));
    assert_eq!(reply.headers["content-type"], "text/html");
    assert!(reply.body.as_str().unwrap().contains("<h1>502 Bad Gateway</h1>"), "{}", reply.body);
    let (sim, _) = struck("html=502 done").await;
    assert_eq!(sim.worker_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delay_puts_the_work_off() {
    let (sim, reply) = struck("delay=10s").await;
    assert_eq!(reply.unwrap().status, 200);
    assert_eq!(workers(&sim)[0].vm.created_at.to_string(), "2026-03-01T12:00:10Z");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_comes_after_the_work() {
    let before = tokio::time::Instant::now();
    let (sim, reply) = struck("slow=10s").await;
    assert_eq!(reply.unwrap().body["data"], true);
    assert_eq!(workers(&sim)[0].vm.created_at.to_string(), "2026-03-01T12:00:00Z");
    let elapsed = before.elapsed();
    assert!((9..=10).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_before_a_delay_is_over_has_asked_for_nothing() {
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
async fn in_an_outage_nothing_arrives_but_control() {
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
async fn faults_do_not_disturb_names() {
    let names = async |faults: &[&str]| {
        let faults = faults.iter().map(|rule| rule.parse().unwrap()).collect();
        let sim = simulator(SimulatorConfig { faults, ..steady() });
        let group = add_group(&sim, "workers", 2).await;
        add_worker(&sim, group).await;
        workers(&sim)[0].vm.hostname.clone()
    };
    assert_eq!(names(&[]).await, names(&["GET ** lost p=0.5", "POST ** delay=1s p=0.5"]).await);
}
