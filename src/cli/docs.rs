//! Generates docs/reference/settings.md from the definition of the command line.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::Cli;

const HEAD: &str = "\
# Settings

Generated from the program's own definitions by `UPDATE=1 cargo test --lib docs`.

Every flag can also be set as an environment variable. A flag takes precedence. As a variable, a flag without a value is
`true` or `false`. Durations are written as `90s`, `10m` or `1h30m`. All problems are reported at once. `vpsie-autoscaler
validate` takes the flags of `serve` and only checks them. [NodeGroups](../use/nodegroups.md) describes NodeGroups,
[Flags of the original](flags.md) the flags of the original VPSie autoscaler.
";

fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = HEAD.to_owned();
    for command in cli.get_subcommands().filter(|c| !["help", "validate"].contains(&c.get_name())) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(page, "\n## `vpsie-autoscaler {}`\n\n{about}.\n", command.get_name()).unwrap();
        flags(&mut page, command);
    }
    page
}

fn flags(page: &mut String, command: &Command) {
    let mut heading = None;
    let shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    for arg in command.get_arguments().filter(shown) {
        if heading != Some(arg.get_help_heading()) {
            heading = Some(arg.get_help_heading());
            if let Some(heading) = arg.get_help_heading() {
                write!(page, "\n### {heading}\n").unwrap();
            }
            page.push_str("\n| Flag | Environment | Default | |\n| --- | --- | --- | --- |\n");
        }
        writeln!(page, "{}", row(arg)).unwrap();
    }
}

fn row(arg: &Arg) -> String {
    let code = |text: String| if text.is_empty() { text } else { format!("`{}`", text.replace('|', "\\|")) };
    let mut flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default();
        write!(flag, " <{}>", names.join(" ")).unwrap();
    }
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter_map(|value| Some(format!("`{}`: {}", value.get_name(), value.get_help()?)))
        .collect();
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if arg.get_action().takes_values() && !values.is_empty() {
        write!(help, ". {}", values.join(", ")).unwrap();
    }
    let env = arg.get_env().map(|env| env.to_string_lossy().into_owned()).unwrap_or_default();
    let default: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let default = if arg.get_action().takes_values() { default.join(",") } else { String::new() };
    format!("| {} | {} | {} | {help} |", code(flag.trim_start().to_owned()), code(env), code(default))
        .replace("  |", " |")
}

#[test]
fn docs_settings_md_matches_the_flags() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/settings.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/reference/settings.md differs: UPDATE=1 cargo test --lib docs");
}
