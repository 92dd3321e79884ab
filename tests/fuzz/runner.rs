//! Runs a target on mutated inputs, for a time or a number of runs. Saves an input that fails.

#![allow(clippy::disallowed_methods, reason = "targets run on threads without a runtime")]

use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use crate::mutate::Mutator;

/// Code that reads input from outside.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Valid inputs, which are mutated.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    pub(crate) run: fn(&[u8]),
}

/// Default of `FUZZ_SECONDS`: time for a target.
const SECONDS: u64 = 3;
/// Maximum time of a run.
const MAX_RUN_TIME: Duration = Duration::from_secs(20);
/// Maximum memory of the process.
const MAX_MEMORY_KIB: u64 = 2 * 1024 * 1024;

thread_local! {
    /// The panics of this thread, including those of tasks.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Records panics for the report: the panic of a task would only reach its handle.
fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            default_hook(panic);
        }));
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, is {text:?}")))
}

pub(crate) fn fuzz(target: &Target) {
    record_panics();
    let seconds = number("FUZZ_SECONDS");
    let runs = number("FUZZ_RUNS").unwrap_or(u64::MAX);
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let failed = failed_inputs(target.name);
    let corpus: Vec<Vec<u8>> = (target.seeds)().into_iter().chain(failed).collect();
    let watch = Watch::start(target.name);
    for input in &corpus {
        run(target, input, &watch);
    }
    let mut mutator = Mutator::new(number("FUZZ_SEED").unwrap_or(1), corpus);
    let mut done = 0;
    while done < runs && Instant::now() < until {
        run(target, &mutator.next(), &watch);
        done += 1;
    }
    eprintln!("fuzz {}: {done} inputs", target.name);
}

fn run(target: &Target, input: &[u8], watch: &Watch) {
    watch.begin(input);
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    watch.end();
    let panics = PANICS.take();
    if result.is_ok() && panics.is_empty() {
        return;
    }
    let path = save(target.name, input);
    panic!(
        "the input is in {}; copy it to tests/fuzz/corpus/{} to keep it:\n{}",
        path.display(),
        target.name,
        panics.join("\n")
    );
}

/// Inputs that failed in the past.
fn failed_inputs(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn save(name: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{:016x}", hasher.finish()));
    std::fs::write(&path, input).unwrap();
    path
}

/// Ends the process if a run hangs or uses too much memory: the run itself cannot detect either.
struct Watch(Running);

/// Start time and input of the current run.
type Running = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

impl Watch {
    fn start(name: &'static str) -> Self {
        let running = Running::default();
        let seen = Arc::downgrade(&running);
        std::thread::spawn(move || {
            while let Some(running) = seen.upgrade() {
                let now = running.lock().unwrap().clone();
                if let Some((since, input)) = now {
                    let memory = memory_kib();
                    if since.elapsed() > MAX_RUN_TIME || memory > MAX_MEMORY_KIB {
                        let path = save(name, &input);
                        eprintln!(
                            "fuzz {name}: a run exceeds a limit after {:?} with {memory} KiB; its input is in {}",
                            since.elapsed(),
                            path.display()
                        );
                        std::process::exit(101);
                    }
                }
                drop(running);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self(running)
    }

    fn begin(&self, input: &[u8]) {
        *self.0.lock().unwrap() = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// Memory of the process; 0 if the system does not report it.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
