//! One daemon for a network namespace: a second one, with directories of its own, would take the first one's devices for what an earlier
//! life of its own has left, and delete them.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};
use tracing::warn;

/// An abstract socket (unix(7)): each network namespace has its own of this name, and it goes with the process.
const NAME: &str = "\0netd/daemon";

/// How long a caller waits where there is no descriptor for it.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps other daemons out of the calling thread's network namespace for as long as the runtime is. Fails where one is there.
pub async fn claim() -> Result<()> {
    let claimed = match UnixListener::bind(NAME) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if let Some(pid) = daemon_there().await {
                bail!("a daemon (pid {pid}) has this network namespace already: stop that one first");
            }
            // Whose it was may have ended meanwhile.
            UnixListener::bind(NAME)
        }
        claimed => claimed,
    };
    match claimed {
        Ok(listener) => drop(tokio::spawn(take_calls(listener))),
        // Anybody may have a name; whoever may not run a daemon keeps none from starting.
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            warn!("the socket @netd/daemon is not a daemon's: no other daemon is kept out of this network namespace");
        }
        Err(error) => return Err(error).context("cannot listen on @netd/daemon"),
    }
    Ok(())
}

/// The process id of who has the name, 0 where it cannot be seen; `None` if it is no daemon: of another user, or deaf.
async fn daemon_there() -> Option<i32> {
    let peer = UnixStream::connect(NAME).await.and_then(|stream| stream.peer_cred()).ok()?;
    let may_run_daemons = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
    may_run_daemons.then(|| peer.pid().unwrap_or(0))
}

/// Who calls looks who takes the call, and hears nothing. Untaken they would fill the queue, and the daemon would look deaf.
async fn take_calls(listener: UnixListener) {
    loop {
        if listener.accept().await.is_err() {
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{linux::net::SocketAddrExt, unix::net as std_net},
        process, thread,
        time::Instant,
    };

    use nix::libc;

    use super::*;
    use crate::{
        cli::block_on,
        testing::{FREED, on_a_host_of_its_own},
    };

    /// What `claim` says to another daemon in this network namespace: one whose runtime ends at once.
    fn refusal_of_another() -> Option<String> {
        let other = || block_on(claim()).err().map(|error| error.to_string());
        thread::scope(|scope| scope.spawn(other).join().unwrap())
    }

    #[test]
    fn a_network_namespace_has_one_daemon_at_a_time() {
        on_a_host_of_its_own(async |_| {
            assert_eq!(refusal_of_another(), None, "it has none yet");
            // What another test just starts may have a copy of the socket for a moment.
            let deadline = Instant::now() + FREED;
            while refusal_of_another().is_some() {
                assert!(Instant::now() < deadline, "the name goes with the first");
            }

            while claim().await.is_err() {
                assert!(Instant::now() < deadline, "the name goes with those before");
            }

            let pid = process::id();
            let expected = format!("a daemon (pid {pid}) has this network namespace already: stop that one first");
            assert_eq!(refusal_of_another(), Some(expected));
        });
    }

    #[test]
    fn another_network_namespace_may_have_its_own_daemon() {
        on_a_host_of_its_own(async |_| {
            claim().await.unwrap();

            on_a_host_of_its_own(async |_| claim().await.unwrap());
        });
    }

    #[test]
    fn whoever_may_run_no_daemon_keeps_none_from_starting() {
        on_a_host_of_its_own(async |_| {
            let address = std_net::SocketAddr::from_abstract_name(&NAME[1..]).unwrap();
            let strangers = thread::spawn(move || {
                // SAFETY: takes no pointer, and as a bare call changes the calling thread alone.
                let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
                assert_eq!(changed, 0);
                std_net::UnixListener::bind_addr(&address).unwrap()
            });
            let _strangers = strangers.join().unwrap();

            assert_eq!(refusal_of_another(), None);
        });
    }
}
