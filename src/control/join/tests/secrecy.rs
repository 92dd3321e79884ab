//! No output has a secret.

use super::*;

#[derive(Clone, Default)]
struct Log(Arc<StdMutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_logs_errors_records_or_debug() {
    // Without this, threads of other tests that have no subscriber would disable log lines that they reach first.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry()));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new(JoinConfig {
        variables: [("password".to_owned(), VariableSource::Secret(key("vars", "password")))].into(),
        template: PayloadTemplate::ConfigMap(key("payload", "script")),
        ..config(JoinKind::Custom)
    });
    world.put_secret("vars", "password", "hunter2");
    let template = |text: &str| world.put("ConfigMap", NAMESPACE, "payload", json!({ "script": text }));
    template("#!/bin/sh\n# {{ token }} {{ vars.password }}");
    let (mut machine, request) = world.requested("batch-1", 1);
    let payload = world.payloads.payload(&request).await.unwrap();
    let secret = field(&world.secrets()[0], "token-secret");
    assert!(payload.expose().contains(&secret) && payload.expose().contains("hunter2"));
    let mut seen = vec![format!("{payload:?}"), world.joins().to_string()];
    world.kube.fail(2, |asked| asked.verb == Verb::Delete, RequestFault::refused(500));
    world.pass(20);
    world.clean().await;
    world.bind(&mut machine);
    world.delete(&mut machine);
    world.clean().await;
    template("#!/bin/sh\n{{ vars.password + 1 }}{{ token + 1 }}");
    let (_, request) = world.requested("batch-2", 1);
    let error = world.payloads.payload(&request).await.unwrap_err();
    seen.push(format!("{error} {error:?}"));
    seen.push(String::from_utf8(log.0.lock().unwrap().clone()).unwrap());
    seen.extend(world.kube.list("events").iter().map(Value::to_string));
    assert!(seen[3].contains("cannot delete join credentials"), "the failure is logged: {}", seen[3]);
    for text in seen {
        assert!(!text.contains(&secret) && !text.contains("hunter2"), "{text}");
        assert!(!text.contains(&BASE64.encode(secret.as_bytes())), "{text}");
    }
}
