//! Writes that break off while a VM goes from one record to another.

use super::*;

fn orphan(stranger: Stranger) -> Stranger {
    let kind = StrangerKind::Orphan { pool: machine("workers-1").pool, size: None };
    Stranger { kind, ..stranger }
}

/// A machine that was given up, with so many requests that may still have a result.
fn failed(requests: usize) -> Machine {
    let at = machine("workers-1").created_at;
    let failure = Failure { reason: FailureReason::ProvisionTimeout, message: String::new() };
    let asks = vec![Ask { at, outcome: AskOutcome::Lost }; requests];
    Machine { phase: Phase::Failed { failure, at }, asks, ..machine("workers-1") }
}

fn with_vm(id: &str, hostname: &str) -> Machine {
    let vm = Vm { hostname: Hostname::new(hostname), id: None, addresses: Vec::new(), provider_id: None };
    let since = machine(id).created_at;
    Machine { phase: Phase::Creating { vm: Some(vm), since }, ..machine(id) }
}

/// A machine that was given up gets a VM, and one that waits adopts it at once.
fn adoption(vm: &str) -> [Change; 4] {
    [
        Change::SaveStranger(orphan(stranger(vm))),
        Change::SaveMachine(failed(0)),
        Change::SaveMachine(with_vm("workers-2", vm)),
        Change::DropStranger(Hostname::new(vm)),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_adopted_at_once_survives_a_broken_write() {
    for (fate, whole) in [(Fate::refused(500), false), (Fate::default(), true)] {
        let kube = server();
        let store = loaded(&kube).await;
        let before = [Change::SaveMachine(failed(1)), Change::SaveMachine(machine("workers-2"))];
        store.commit(&before).await.unwrap();
        kube.on_request(move |asked| {
            let broken = asked.verb == Verb::Patch && asked.path.contains("/vpsienodes/workers-2");
            if broken { fate.clone() } else { Fate::default() }
        });
        assert_eq!(store.commit(&adoption("slave-1")).await.is_ok(), whole);
        kube.clear_faults();
        let left = loaded(&kube).await.load().await.unwrap();
        assert_eq!(left.machines.iter().any(|m| m.vm().is_some()), whole);
        let requested = left.machines.iter().any(|m| !m.asks.is_empty());
        assert_eq!(!left.strangers.is_empty() || requested, !whole, "the VM is forgotten: {left:?}");
    }
}
