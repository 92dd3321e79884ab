//! Shell scripts, read and not executed: the files that here-documents write, and the commands. Pure.

use super::plan_error::PlanError;

/// A shell script.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// The files that here-documents write.
    pub files: Vec<File>,
    /// The other lines, with continuation lines joined, without comments.
    pub commands: Vec<String>,
}

/// A file that a here-document writes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its path. Empty: unknown.
    pub path: String,
    /// Its content.
    content: String,
    /// Whether the shell expands variables in the content.
    is_expanded: bool,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({})", self.path)
    }
}

impl File {
    /// The content, if it does not depend on variables of the shell.
    pub(super) fn content(&self) -> Result<&str, PlanError> {
        let has_variables = self.is_expanded && self.content.contains(['$', '`']);
        if has_variables { Err(PlanError::Variables { path: self.path.clone() }) } else { Ok(&self.content) }
    }

    /// Returns true iff the content has the text.
    pub(super) fn has(&self, text: &str) -> bool {
        self.content.contains(text)
    }
}

/// The start of a here-document.
struct Start<'a> {
    delimiter: &'a str,
    is_quoted: bool,
    strips_tabs: bool,
}

impl Script {
    pub(super) fn parse(text: &str) -> Result<Self, PlanError> {
        let mut script = Self::default();
        let mut lines = text.lines();
        let mut command = String::new();
        let mut variables = Vec::new();
        while let Some(line) = lines.next() {
            if command.is_empty() && line.trim_start().starts_with('#') {
                continue;
            }
            command.push_str(line);
            if command.ends_with('\\') {
                command.pop();
                continue;
            }
            let line = expand(std::mem::take(&mut command), &variables);
            variables.extend(assignment(&line));
            if let Some(start) = here_document(&line) {
                let content = read_document(&mut lines, &start)?;
                let path = target(&line).unwrap_or_default();
                script.files.push(File { path, content, is_expanded: !start.is_quoted });
            }
            script.commands.push(line);
        }
        Ok(script)
    }

    /// Returns true iff a command has all these words, each as a part.
    pub(super) fn runs(&self, words: &[&str]) -> bool {
        self.commands.iter().any(|command| words.iter().all(|word| command.contains(word)))
    }
}

/// The variable that a command assigns, if its value is a literal.
fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=')?;
    let is_literal = !value.contains(['$', '`', ' ', ';', '(']);
    (is_name(name) && is_literal).then(|| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_name_character)
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The command with the values of these variables.
fn expand(command: String, variables: &[(String, String)]) -> String {
    variables.iter().rev().fold(command, |command, (name, value)| {
        let command = command.replace(&format!("${{{name}}}"), value);
        let reference = format!("${name}");
        let mut parts = command.split(&reference);
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            if part.starts_with(is_name_character) {
                expanded.push_str(&reference);
            } else {
                expanded.push_str(value);
            }
            expanded.push_str(part);
        }
        expanded
    })
}

fn here_document(line: &str) -> Option<Start<'_>> {
    let (_, rest) = line.split_once("<<").filter(|(_, rest)| !rest.starts_with('<'))?;
    let strips_tabs = rest.starts_with('-');
    let rest = rest.trim_start_matches('-').trim_start();
    let is_quoted = rest.starts_with(['\'', '"', '\\']);
    let rest = rest.trim_start_matches(['\'', '"', '\\']);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| Start { delimiter: &rest[..end], is_quoted, strips_tabs })
}

fn read_document<'a>(
    lines: &mut impl Iterator<Item = &'a str>,
    start: &Start<'_>,
) -> Result<String, PlanError> {
    let mut content = String::new();
    for line in lines {
        let line = if start.strips_tabs { line.trim_start_matches('\t') } else { line };
        if line == start.delimiter {
            return Ok(content);
        }
        content.push_str(line);
        content.push('\n');
    }
    Err(PlanError::OpenDocument { delimiter: start.delimiter.to_owned() })
}

/// The file that a command with a here-document writes: after `>`, `tee` or `/dev/stdin`.
fn target(line: &str) -> Option<String> {
    let after_writer = |writer: &str| {
        let mut words = line.split_whitespace().skip_while(move |word| *word != writer).skip(1);
        words.find(|word| !word.starts_with('-') && !word.starts_with('<'))
    };
    let redirected = || {
        let (_, rest) = line.split_once('>')?;
        rest.trim_start_matches('>').split_whitespace().next()
    };
    let path = after_writer("tee").or_else(|| after_writer("/dev/stdin")).or_else(redirected)?;
    Some(path.trim_matches(['\'', '"', ';']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn here_documents_are_files() {
        for (text, path) in [
            ("cat > /a/b <<'EOF'\nx: 1\nEOF\n", "/a/b"),
            ("cat <<\"EOF\" >/a/b\nx: 1\nEOF\n", "/a/b"),
            ("tee -a /a/b <<'EOF' >/dev/null\nx: 1\nEOF\n", "/a/b"),
            ("install -m 0600 /dev/stdin '/a/b' <<-\\EOF\n\tx: 1\n\tEOF\n", "/a/b"),
        ] {
            let script = Script::parse(&format!("#!/bin/sh\n{text}true\n")).unwrap();
            assert_eq!(script.files[0].path, path, "{text}");
            assert_eq!(script.files[0].content(), Ok("x: 1\n"), "{text}");
            assert_eq!(script.commands.last().unwrap(), "true");
        }
    }

    #[test]
    fn variables_in_an_unquoted_document_are_refused() {
        let script = Script::parse("cat > /a <<EOF\nname: $(hostname)\nEOF\n").unwrap();
        assert_eq!(script.files[0].content(), Err(PlanError::Variables { path: "/a".to_owned() }));
        let quoted = Script::parse("cat > /a <<'EOF'\nname: $x\nEOF\n").unwrap();
        assert_eq!(quoted.files[0].content(), Ok("name: $x\n"));
    }

    #[test]
    fn commands_have_the_values_of_variables() {
        let script =
            Script::parse("config=/a/b\ncat > \"$config\" <<'EOF'\n$config\nEOF\nrun ${config} $config_2\n");
        let script = script.unwrap();
        assert_eq!((script.files[0].path.as_str(), script.files[0].content()), ("/a/b", Ok("$config\n")));
        assert_eq!(script.commands.last().unwrap(), "run /a/b $config_2");
    }

    #[test]
    fn an_open_document_is_an_error() {
        let error = Script::parse("cat > /a <<EOF\nx\n EOF\n").unwrap_err();
        assert_eq!(error, PlanError::OpenDocument { delimiter: "EOF".to_owned() });
    }

    #[test]
    fn continued_lines_are_one_command_and_comments_are_none() {
        let script = Script::parse("# kubeadm join\nkubeadm \\\n join --config /a\ncat <<< x\n").unwrap();
        assert_eq!(script.commands, ["kubeadm  join --config /a", "cat <<< x"]);
        assert!(script.runs(&["kubeadm", "join"]) && !script.runs(&["k3s"]));
    }
}
