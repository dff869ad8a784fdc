//! ufw and firewalld themselves, of Debian's packages, in a root of their own on a Lab's host: its network and processes, none of
//! its files nor the machine's.

use std::{env, path::PathBuf};

use netd_tests::lab::{Host, Running};

use crate::town::wait_until;

/// Makes `ROOT` what a process sees, with a layer over it that goes with the process, and waits there.
const ENTER: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$ROOT,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root
mkdir -p .old
mount -t proc proc proc
mount -t sysfs sysfs sys
for place in run dev; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p run/lock run/dbus
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
ln -s /proc/self/fd dev/fd
pivot_root . .old
umount -l /.old
echo entered
exec sleep infinity
"#;

/// An operator's programs on a host. They end with it, and what they wrote goes.
pub struct Operator {
    host: Host,
    root: Running,
    daemons: Vec<Running>,
}

impl Operator {
    /// One that has run nothing.
    pub fn on(host: &Host) -> Self {
        let tree = env::var_os("NETD_FIREWALLS").map(PathBuf::from).filter(|root| root.join("usr/sbin/ufw").exists());
        let tree =
            tree.expect("NETD_FIREWALLS says where ufw and firewalld are: `sudo cargo xtask test` makes that root");
        let variables = [("ROOT".to_owned(), tree.display().to_string())];
        let root = host.spawn_with(["unshare", "--mount", "sh", "-c", ENTER], &variables);
        wait_until("the operator's root is there", || root.log().contains("entered"));
        Self { host: host.clone(), root, daemons: Vec::new() }
    }

    /// With firewalld, and the bus by which it is spoken to.
    pub fn with_firewalld(host: &Host) -> Self {
        let mut this = Self::on(host);
        this.daemons.push(this.starts("exec dbus-daemon --system --nofork --nopidfile"));
        wait_until("the bus is there", || this.tries("test -S /run/dbus/system_bus_socket"));
        this.daemons.push(this.starts("exec firewalld --nofork --nopid --log-target console"));
        wait_until("firewalld runs", || this.tries("firewall-cmd --state"));
        this
    }

    /// Has a line of the shell done, and returns what it said.
    #[track_caller]
    pub fn does(&self, line: &str) -> String {
        self.starts(line).wait().ok()
    }

    /// Has a line of the shell done that asks iptables-legacy and does not wait for its lock, which netd may have at that moment: again,
    /// as an operator would.
    #[track_caller]
    pub fn does_in_the_end(&self, line: &str) {
        wait_until(&format!("`{line}` is done"), || self.tries(line));
    }

    /// Whether a line of the shell succeeds.
    fn tries(&self, line: &str) -> bool {
        self.starts(line).wait().succeeded()
    }

    fn starts(&self, line: &str) -> Running {
        let root = self.root.id_inside().to_string();
        let line = format!("export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8; {line}");
        self.host.spawn(["nsenter", "--target", &root, "--mount", "--", "sh", "-c", &line])
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemons.iter().for_each(|daemon| eprintln!("---- {}", daemon.log()));
        }
        // Those that hang on a bus go before it.
        while self.daemons.pop().is_some() {}
    }
}
