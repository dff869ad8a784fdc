//! What the command line says. That it cannot be written is told once, when everything else is done: `main` asks for it.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::OnceLock,
};

/// The first failure to write.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// A line of the answer.
pub fn line(line: impl Display) {
    note(writeln!(io::stdout(), "{line}"));
}

/// Lines of the answer, each with its end.
pub fn text(text: &str) {
    note(io::stdout().write_all(text.as_bytes()));
}

/// A line about what is wrong.
pub fn complain(line: impl Display) {
    // Where nobody can be told there is nobody to tell that.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Why the answer could not be written, if it could not.
pub fn failure() -> Option<&'static io::Error> {
    note(io::stdout().flush());
    FAILURE.get()
}

fn note(written: io::Result<()>) {
    if let Err(error) = written {
        // Only the first is of interest.
        let _ = FAILURE.set(error);
    }
}
