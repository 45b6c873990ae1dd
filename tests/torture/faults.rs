//! A command that is killed at a call chosen by name, or whose call fails as a disk makes it fail.

use vhashify_sys::fault::Point;

use vhashify_testkit::disturb::{Case, Scenario, disturb, is_killed};

use crate::attack::{Attack, Field};

pub const ATTACK: Attack = Attack {
    name: "inv6_faults",
    invariants: &[1, 2, 3, 6, 7],
    run,
};

const ERRORS: [&str; 6] = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENOMEM"];

fn run(field: &mut Field<'_>) {
    while field.goes_on() {
        let scenario = *field.numbers.one_of(&Scenario::ALL);
        let point = field.numbers.one_of(Point::ALL);
        // No scenario shares extents.
        if matches!(point, Point::MapExtents | Point::ShareExtents) {
            continue;
        }
        let point = point.name();
        let hit = 1 + field.numbers.below(12);
        let action = if field.numbers.once_in(2) {
            (*field.numbers.one_of(&["kill-before", "kill-after"])).to_owned()
        } else {
            let error = *field.numbers.one_of(&ERRORS);
            let later = if field.numbers.once_in(2) { "+" } else { "" };
            format!("{error}{later}")
        };
        let is_kill = action.starts_with("kill");
        let faults = format!("{point}:{hit}:{action}");
        let output = disturb(&Case { scenario, faults }, field.filesystem);
        if is_kill {
            field.tried("kills", u64::from(is_killed(&output)));
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(matches!(output.status.code(), Some(0..=2)), "{said}");
            assert!(!said.contains("panicked"), "{said}");
            field.tried("faults", 1);
        }
    }
}
