//! Programs and maps in the kernel by their ids, which are the whole machine's: only ids of a daemon's own are looked at.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};

/// What a daemon has in the kernel.
#[derive(Debug)]
pub struct Loaded {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Loaded {
    /// These programs and the maps that they use.
    #[track_caller]
    pub fn of(ids: &[u32]) -> Self {
        let programs: BTreeSet<u32> = ids.iter().copied().collect();
        let ours = loaded_programs().filter_map(Result::ok).filter(|program| programs.contains(&program.id()));
        let maps: BTreeSet<u32> =
            ours.flat_map(|program| program.map_ids().ok().flatten().unwrap_or_default()).collect();
        assert!(!programs.is_empty() && !maps.is_empty(), "a daemon has programs {programs:?} and maps {maps:?}");
        Self { programs, maps }
    }

    /// Asserts that the kernel has none of them any more; it frees them a little after the last one lets go.
    #[track_caller]
    pub fn assert_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = self.left();
            if left.programs.is_empty() && left.maps.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "the kernel still has {left:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self) -> Self {
        let programs = loaded_programs().filter_map(Result::ok).map(|program| program.id());
        let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
        Self {
            programs: programs.filter(|id| self.programs.contains(id)).collect(),
            maps: maps.filter(|id| self.maps.contains(id)).collect(),
        }
    }
}
