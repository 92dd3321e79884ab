//! Runs the built-in payloads in a folder, with programs that only record their arguments.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;

struct Machine {
    root: tempfile::TempDir,
    payload: String,
}

impl Machine {
    fn new(kind: JoinKind) -> Self {
        let mut variables = variables(kind);
        variables.vars.insert("install_command".to_owned(), "echo installed >>\"$LOG\"".into());
        let machine = Self { root: tempfile::tempdir().unwrap(), payload: builtin(&variables) };
        for folder in ["bin", "etc/kubernetes", "etc/systemd/system", "run", "var/lib/cloud/instance"] {
            std::fs::create_dir_all(machine.path(folder)).unwrap();
        }
        std::fs::write(machine.path("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        std::fs::write(machine.path("var/lib/cloud/instance/user-data.txt"), &machine.payload).unwrap();
        machine.program("getent", "[ \"$(grep -c ^getent \"$LOG\")\" -ge 3 ]");
        machine.program("hostnamectl", "");
        machine.program("sleep", "");
        machine.program("systemctl", "[ \"$1\" != cat ]");
        // The first attempt fails.
        let joined = machine.path("etc/kubernetes/kubelet.conf");
        let join = "[ \"$1\" = join ] || exit 0; [ \"$(grep -c '^kubeadm join' \"$LOG\")\" -ge 2 ]";
        machine.program("kubeadm", &format!("{join} && cp \"$3\" {}", joined.display()));
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn program(&self, name: &str, then: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >>\"$LOG\"\n{then}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the payload, and returns the recorded lines.
    fn run(&self) -> String {
        let root = self.root.path().display();
        let mut text = self.payload.clone();
        for folder in ["/etc/", "/run/", "/var/lib/"] {
            text = text.replace(folder, &format!("{root}{folder}"));
        }
        let (file, log) = (self.path("payload.sh"), self.path("log"));
        std::fs::write(&file, text).unwrap();
        std::fs::write(&log, "").unwrap();
        let search = format!("{root}/bin:{}", std::env::var("PATH").unwrap());
        let Output { status, stderr, .. } =
            Command::new("sh").arg(&file).env("PATH", search).env("LOG", &log).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        assert!(!file.exists(), "the script has the credential");
        std::fs::read_to_string(log).unwrap().replace(&root.to_string(), "")
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn kubeadm_joins_once_and_leaves_no_credential() {
    let machine = Machine::new(JoinKind::Kubeadm);
    let log = machine.run();
    let joined = log.lines().filter(|line| *line == "kubeadm join --config /run/vpsie-join.yaml").count();
    assert_eq!(joined, 2, "the first attempt failed: {log}");
    assert!(log.contains("hostnamectl set-hostname workers-1a2b3c4d-1\ninstalled\n"), "{log}");
    assert!(is_empty(&machine.path("run")) && is_empty(&machine.path("var/lib/cloud/instance")));
    assert!(std::fs::read_to_string(machine.path("etc/kubernetes/kubelet.conf")).unwrap().contains(TOKEN));
    assert_eq!(machine.run(), "systemctl enable --now kubelet\n", "the second boot");
}

#[test]
fn kubeadm_does_not_reset_a_node_that_has_its_credential() {
    let machine = Machine::new(JoinKind::Kubeadm);
    let joined = machine.path("etc/kubernetes/kubelet.conf");
    machine.program("kubeadm", &format!("[ \"$1\" = join ] && cp \"$3\" {}; exit 1", joined.display()));
    let log = machine.run();
    assert!(log.contains("kubeadm join") && !log.contains("kubeadm reset"), "{log}");
    assert!(joined.exists() && is_empty(&machine.path("run")));
}

#[test]
fn agents_start_once_they_are_configured() {
    for (kind, name) in [(JoinKind::K3s, "k3s"), (JoinKind::Rke2, "rke2")] {
        let machine = Machine::new(kind);
        let log = machine.run();
        let start = format!("systemctl enable --now --no-block {name}-agent\n");
        assert!(log.contains("installed\n") && log.ends_with(&start), "{log}");
        let config = machine.path(&format!("etc/rancher/{name}/config.yaml"));
        assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(config).unwrap().contains(TOKEN));
        assert!(is_empty(&machine.path("var/lib/cloud/instance")));
        let agent = machine.path(&format!("var/lib/rancher/{name}/agent"));
        std::fs::create_dir_all(&agent).unwrap();
        std::fs::write(agent.join("client-kubelet.crt"), "").unwrap();
        assert_eq!(machine.run(), start, "the second boot");
    }
}
