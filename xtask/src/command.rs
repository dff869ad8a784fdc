//! Running other programs, so that a failure shows the command line and the end of what it said.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

/// Lines of a failed command's errors that are shown.
const TAIL: usize = 30;

/// Runs `command` with our own input and output.
pub fn show(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, error))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs `command` in silence; its errors are shown if it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    text(command).map(drop)
}

/// What `command` prints, in silence; its errors are shown if it fails.
pub fn text(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed ({})\n{}", line(command), output.status, tail(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is not UTF-8", line(command)))
}

/// What `command` prints while its errors go to ours: for what takes long and shows its progress there.
pub fn text_showing_errors(command: &mut Command) -> Result<String> {
    let output = output(command.stderr(Stdio::inherit()))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is not UTF-8", line(command)))
}

/// Whether `command` can be started and ends well, in silence.
pub fn succeeds(command: &mut Command) -> bool {
    output(command).is_ok_and(|output| output.status.success())
}

/// Becomes `command`. Returns only if that fails.
pub fn become_it(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(cannot_start(command, error))
}

/// The command line, as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// `word` as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Fails unless we are root, with the command to run; `arguments` are those of `cargo xtask`.
pub fn need_root(arguments: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask {arguments}`");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, error))
}

fn cannot_start(command: &Command, error: io::Error) -> anyhow::Error {
    anyhow!(error).context(format!("cannot start `{}`", line(command)))
}

fn tail(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_line_and_the_end_of_its_errors() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in $(seq 100); do echo line $i >&2; done; exit 3"]);

        let error = text(&mut command).expect_err("it exits with 3").to_string();

        assert!(error.starts_with("`sh -c 'for i in $(seq 100)"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("line 99\nline 100"), "{error}");
        assert!(!error.contains("line 70\n"), "{error}");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = quiet(&mut Command::new("no-such-program")).expect_err("there is none");

        assert_eq!(error.to_string(), "cannot start `no-such-program`");
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        for (word, expected) in
            [("a-b=c/d", "a-b=c/d"), ("", "''"), ("two words", "'two words'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
