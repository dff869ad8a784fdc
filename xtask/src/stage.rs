//! What the demo and the bench share: work in a Lab, whose failed step becomes one line.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};

/// Runs `work`. A step of the Lab that fails panics; its message is the error, after `what`.
pub fn play<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::set_hook(Box::new(|_| {}));
    let played = catch_unwind(AssertUnwindSafe(work));
    drop(std::panic::take_hook());
    played.unwrap_or_else(|panic| {
        let message = match panic.downcast_ref::<String>() {
            Some(message) => message,
            None => panic.downcast_ref::<&str>().copied().unwrap_or("a step failed"),
        };
        Err(anyhow!("{what} stopped: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_panics_is_an_error_with_its_message() {
        let stopped = play::<()>("the play", || panic!("no {}", "curtain")).expect_err("it panicked");

        assert_eq!(stopped.to_string(), "the play stopped: no curtain");
    }
}
