//! `netd completion` and `netd man`: what shells and `man` read, made from the words that the command line itself reads.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use super::{args::Cli, out, wrong_usage};

/// Prints what a shell reads to complete our words.
pub fn completion(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    generate(shell, &mut shown(), "netd", &mut script);
    out::text(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints the manual page of netd, or of one of its commands.
pub fn man(words: &[String]) -> Result<ExitCode> {
    let Some(command) = named(shown(), words) else {
        return Ok(wrong_usage(&format!("there is no command `netd {}`", words.join(" "))));
    };
    out::text(&page(command)?);
    Ok(ExitCode::SUCCESS)
}

/// The manual page of a command, which any roff reads: it takes characters beyond ASCII by their numbers alone (groff_char(7)).
fn page(command: clap::Command) -> Result<String> {
    let title = command.get_display_name().unwrap_or("netd").to_uppercase();
    let mut page = Vec::new();
    Man::new(command).title(title).section("8").render(&mut page)?;
    let number = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    Ok(String::from_utf8_lossy(&page).chars().map(number).collect())
}

/// The command line without what is for netd's own processes.
fn shown() -> clap::Command {
    let whole = Cli::command();
    let about = whole.get_about().cloned().unwrap_or_default();
    let shown: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut command = clap::Command::new("netd").version(env!("CARGO_PKG_VERSION")).about(about).subcommands(shown);
    command.build();
    command
}

/// The command that the words name.
fn named(command: clap::Command, words: &[String]) -> Option<clap::Command> {
    words.iter().try_fold(command, |command, word| command.find_subcommand(word).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_for_our_own_processes_are_not_shown() {
        assert!(shown().get_subcommands().all(|command| !command.get_name().starts_with("__")));
        assert!(shown().get_subcommands().any(|command| command.get_name() == "run"));
    }

    #[test]
    fn what_shells_complete_is_what_the_command_line_takes() {
        let mut whole = Cli::command();
        whole.build();
        let names = |command: &clap::Command| {
            let taken = command.get_subcommands().filter(|command| !command.is_hide_set());
            taken.map(|command| command.get_name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&shown()), names(&whole));
    }

    #[test]
    fn a_page_has_no_character_that_roff_does_not_read() {
        let attach = page(named(shown(), &["attach".to_owned()]).unwrap()).unwrap();
        assert!(attach.contains("\\[u2026]") && attach.is_ascii(), "{attach}");
    }

    #[test]
    fn a_page_is_named_after_the_whole_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(named(shown(), &words("network create")).unwrap().get_display_name(), Some("netd-network-create"));
        assert_eq!(named(shown(), &[]).unwrap().get_name(), "netd");
        assert!(named(shown(), &words("network nonsense")).is_none());
    }
}
