//! Has nf_conntrack bear gaps in what it sees of a connection, and tells the programs so: only then do they send its packets
//! past it.
//!
//! On a thread of its own, since connections wait for it on the slow path. Without it, or with nf_conntrack refusing, they stay
//! there, which is correct and slower.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::ProgramFd,
};
use netd_common::{
    evict::{COLLECT_MAX, CollectOrder, FOLLOW},
    tables::names,
    tuple::Tuple,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::{object, programs::Programs, syscall};
use crate::link::conntrack::Conntrack;

/// How long the thread sleeps without looking whether it is to end, in milliseconds.
const LOOK: u16 = 1000;

/// The thread. Dropped, it ends.
#[derive(Debug)]
pub struct Follower(Arc<AtomicBool>);

impl Follower {
    /// Starts it in the network namespace of the calling thread.
    pub fn start(object: &mut Ebpf, programs: &Programs) -> Result<Self> {
        let asked = object.take_map(names::UNFOLLOWED).context("the object lacks its ring buffer")?;
        let asked = RingBuf::try_from(asked)?;
        let program = programs.get(object::COLLECT).context("the object lacks its collector")?;
        let program = program.fd()?.try_clone().context("cannot keep the collector's descriptor")?;
        let conntrack = Conntrack::open()?;
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let run = move || follow(asked, &program, &conntrack, &stop);
        thread::Builder::new().name("follower".to_owned()).spawn(run).context("cannot start a thread")?;
        Ok(Self(enough))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn follow(mut asked: RingBuf<MapData>, program: &ProgramFd, conntrack: &Conntrack, stop: &AtomicBool) {
    let mut complained = false;
    while !stop.load(Ordering::Relaxed) {
        let descriptor = asked.as_raw_fd();
        // SAFETY: the ring buffer is open through the call.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
        // An interrupted sleep is a short one.
        let _ = poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::from(LOOK));
        while let Some(tuples) = taken(&mut asked) {
            let done = followed(&tuples, conntrack).and_then(|tuples| tell(program, &tuples));
            if let Err(error) = done
                && !std::mem::replace(&mut complained, true)
            {
                warn!("connections stay on the slow path: {error:#}");
            }
        }
    }
}

/// The next ones that are asked for, no more than an order takes; `None` where there are none.
fn taken(asked: &mut RingBuf<MapData>) -> Option<Vec<Tuple>> {
    let mut tuples = Vec::new();
    while tuples.len() < COLLECT_MAX as usize {
        let Some(item) = asked.next() else { break };
        tuples.extend(bytemuck::try_pod_read_unaligned::<Tuple>(&item).ok());
    }
    (!tuples.is_empty()).then_some(tuples)
}

/// Those of which nf_conntrack bears gaps by now, or knows nothing: it then has nothing to be wrong about.
fn followed(tuples: &[Tuple], conntrack: &Conntrack) -> Result<Vec<Tuple>> {
    for tuple in tuples {
        conntrack.make_liberal(tuple)?;
    }
    Ok(tuples.to_vec())
}

fn tell(program: &ProgramFd, tuples: &[Tuple]) -> Result<()> {
    let order = CollectOrder { which: FOLLOW, count: tuples.len() as u32, pad: [0; 2] };
    let mut packet = bytemuck::bytes_of(&order).to_vec();
    packet.extend_from_slice(bytemuck::cast_slice(tuples));
    syscall::run(program.as_fd(), &packet).context("cannot run the collector")?;
    Ok(())
}
