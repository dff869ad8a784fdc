//! Any schedule of openings, answers, closing, waiting and loss, on one CPU and on two: nobody gets another's answers, and
//! what lives keeps its translation.

use netd_tests::schedule::{Schedule, Step};
use proptest::prelude::*;

fn plays(capacity: usize, steps: Vec<[u8; 7]>) -> Result<(), TestCaseError> {
    Schedule::new(capacity).play(&steps.into_iter().map(Step::new).collect::<Vec<_>>()).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nobody_gets_anothers_answers_and_what_lives_keeps_its_name(steps in prop::collection::vec(any::<[u8; 7]>(), 0..300)) {
        plays(0, steps)?;
    }

    #[test]
    fn a_table_at_any_fill_level_never_changes_an_established_mapping(
        steps in prop::collection::vec(any::<[u8; 7]>(), 0..300),
        capacity in 2usize..40,
    ) {
        plays(capacity, steps)?;
    }
}
