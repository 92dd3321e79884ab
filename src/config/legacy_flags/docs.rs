//! Writes docs/reference/flags.md from the table, and checks that each flag behaves as documented.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, Parser};

use super::{CONTROLLER, LegacyFlag, MANIFESTS, Support, WEBHOOK, all};
use crate::config::{ServeArgs, Settings};

const HEAD: &str = "\
# Flags of the original

Generated from the program's own table by `UPDATE=1 cargo test --lib legacy_flags`.

This page lists the flags of the original VPSie autoscaler, release 0.7. Flags that work have the same meaning, with the
defaults in [Settings](settings.md). The program reports all refused flags at once, each with its replacement.

The original had no subcommands. Its counterpart is `serve`, with NodeGroups in the cluster and the service account of
the pod:

```sh
vpsie-autoscaler serve --store=kubernetes --kubeconfig=in-cluster --namespace=kube-system \\
  --vpsie-secret-name=vpsie-secret
```

Without the subcommand, all flags are refused, and other problems with them are reported, too. `vpsie-autoscaler validate`
takes the flags of `serve` and only checks them.
";

const ENVIRONMENT: &str = "
## Environment

The original's manifests set the first five and its chart the sixth, but the original did not read them. It read only
the last two. Neither program reads `VPSIE_SECRET_NAMESPACE`, which the original's chart set.

| Variable | In the manifests | Here |
| --- | --- | --- |
";

/// Variables that this program reads: value in the original's manifests, flag, and the reason if that value
/// is refused.
const VARIABLES: [(&str, &str, &str, Option<&str>); 6] = [
    ("VPSIE_API_URL", "https://api.vpsie.com/v2", "vpsie-api-url", None),
    ("VPSIE_CLIENT_ID", "id", "vpsie-client-id", None),
    ("VPSIE_CLIENT_SECRET", "secret", "vpsie-client-secret", None),
    ("VPSIE_RATE_LIMIT", "100", "vpsie-rate-limit", None),
    ("VPSIE_TIMEOUT", "30", "vpsie-timeout", Some("`30` is refused: it needs a unit, as in `30s`")),
    ("VPSIE_SECRET_NAME", "vpsie-secret", "vpsie-secret-name", None),
];

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (heading, flags) in [
        ("Controller", CONTROLLER),
        ("Webhook\n\nA binary of its own. Its `--log-level` and `--log-format` are as above.", WEBHOOK),
        (
            "Manifests\n\nThe Kustomize manifests of the original set these flags. Its controller did not know them and exited.",
            MANIFESTS,
        ),
    ] {
        write!(page, "\n## {heading}\n\n| Flag | Default | Here |\n| --- | --- | --- |\n").unwrap();
        for LegacyFlag { name, default, support } in flags {
            writeln!(page, "| `--{name}` |{} | {} |", code(default), here(support)).unwrap();
        }
    }
    page.push_str(ENVIRONMENT);
    for (variable, value, flag, refusal) in VARIABLES {
        let note = refusal.map(|refusal| format!(". {refusal}")).unwrap_or_default();
        // The manifests had no credentials.
        let value = if flag.starts_with("vpsie-client-") { "" } else { value };
        writeln!(page, "| `{variable}` |{} | Works: is `--{flag}`{note} |", code(value)).unwrap();
    }
    page + "| `SENTRY_DSN`, `ENVIRONMENT` | | Not read: the program does not send data to Sentry |\n"
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" `{text}`") }
}

fn here(support: &Support) -> String {
    match support {
        Support::Same("") => "Works".to_owned(),
        Support::Same(note) => format!("Works. {note}"),
        Support::Refused(sentence) => format!("Refused: it {sentence}"),
    }
}

/// Result of `serve` with this flag and the flags that it needs.
fn outcome(flag: &str, value: &str) -> Result<String, String> {
    let mut words = vec!["serve".to_owned(), "--store=kubernetes".to_owned(), format!("--{flag}={value}")];
    if flag != "kubeconfig" {
        words.push("--kubeconfig=in-cluster".to_owned());
    }
    match flag {
        "vpsie-secret-name" => {}
        "vpsie-client-id" => words.push("--vpsie-client-secret=s".to_owned()),
        "vpsie-client-secret" => words.push("--vpsie-client-id=i".to_owned()),
        _ => words.push("--vpsie-api-token=t".to_owned()),
    }
    let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.serve;
    let shown = format!("{args:?}");
    Settings::new(args).map_err(|problems| problems.to_string())?;
    Ok(shown)
}

fn argument<'a>(command: &'a Command, flag: &str) -> &'a Arg {
    let has = |arg: &&Arg| arg.get_long() == Some(flag);
    command.get_arguments().find(has).unwrap_or_else(|| panic!("there is no --{flag}"))
}

#[test]
fn docs_flags_md_is_as_the_table_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/flags.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/flags.md differs: UPDATE=1 cargo test --lib legacy_flags");
}

#[test]
fn each_flag_of_the_original_behaves_as_in_the_table() {
    for LegacyFlag { name, default, support, .. } in all() {
        let outcome = outcome(name, default);
        match support {
            Support::Refused(sentence) => assert_eq!(outcome.unwrap_err(), format!("--{name}: {sentence}")),
            // The flag needs a value.
            Support::Same(_) if default.is_empty() => {
                let error = outcome.unwrap_err();
                assert!(error.contains(&format!("a value is required for '--{name} <")), "{error}");
            }
            Support::Same(_) => assert!(outcome.is_ok(), "--{name}: {outcome:?}"),
        }
    }
    assert!(outcome("kubeconfig", "in-cluster").is_ok());
    assert_eq!(outcome("log-format", "console"), outcome("log-format", "text"));
    assert!(outcome("failed-vpsienode-ttl", "0").unwrap_err().contains("above 0 and at most 87600h"));
}

#[test]
fn serve_has_one_name_for_each_flag() {
    for arg in Line::command().get_arguments() {
        assert_eq!(arg.get_all_aliases().unwrap_or_default(), Vec::<&str>::new(), "{arg}");
    }
}

#[test]
fn variables_are_named_after_their_flags() {
    let refused =
        |flag: &str| all().any(|known| known.name == flag && matches!(known.support, Support::Refused(_)));
    for arg in Line::command().get_arguments() {
        let flag = arg.get_long().unwrap_or_default();
        if refused(flag) {
            continue;
        }
        let name = flag.replace('-', "_").to_uppercase();
        let name = if name.starts_with("VPSIE_") { name } else { format!("VPSIE_AUTOSCALER_{name}") };
        assert_eq!(arg.get_env(), Some(name.as_ref()), "--{flag}");
    }
}

#[test]
fn each_variable_of_the_original_behaves_as_documented() {
    let command = Line::command();
    for (variable, value, flag, refusal) in VARIABLES {
        assert_eq!(argument(&command, flag).get_env(), Some(variable.as_ref()));
        assert_eq!(
            outcome(flag, value).is_err(),
            refusal.is_some(),
            "{variable}: {:?}",
            outcome(flag, value)
        );
    }
}

#[test]
fn a_refused_flag_is_answered_however_it_is_given() {
    let refused = |line: &str| {
        let words = line.split(' ');
        let problems = Settings::new(Line::try_parse_from(words).unwrap().serve).unwrap_err().to_string();
        problems.lines().filter_map(|line| line.split(':').next()).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let base = "serve --simulate";
    assert_eq!(
        refused(&format!("{base} --metrics-addr :1 --development")),
        ["--metrics-addr", "--development"]
    );
    assert_eq!(refused(&format!("{base} --rebalancing --rebalancing=false")), ["--rebalancing"]);
    let both = refused(&format!("{base} --sync-period 1m --http-listen 127.0.0.1:8086"));
    assert_eq!(both, ["--sync-period", "--http-listen"]);
}
