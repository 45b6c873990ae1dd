//! What the tests of the built program stand on. Nothing here calls the library: what it says about
//! guests is seen with other eyes.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`adversary`] | a guest that tries every way to change shared files |
//! | [`attempts`] | these ways |
//! | [`bait`] | files that a run is to be led to, and whether it touched them |
//! | [`browser`] | a real browser, to see what a reader of a page sees |
//! | [`built`] | where the built programs are, and where a test may write |
//! | [`disturb`] | a command disturbed at a fault point, and what must hold then |
//! | [`everything`] | all that can be said of any guests |
//! | [`filesystem`] | real ext4, XFS and Btrfs, loop-mounted for one test |
//! | [`numbers`] | numbers that look random |
//! | [`disk`] | a disk from which the power can be cut at any write |
//! | [`fuse`] | the file that such a disk is, served by the test |
//! | [`power`] | what a power cut leaves of a store and its guests, and what a run makes of it |
//! | [`held_open`] | a process that is held in the middle of opening a file for writing |
//! | [`html`] | whether a page is well-formed |
//! | [`program`] | the built `vhashify`, as a user runs it |
//! | [`mapping`] | a shared writable mapping |
//! | [`moments`] | what holds at any moment, and what after the next run |
//! | [`snapshot`] | a walk of a guest or a store, and what differs between two |
//! | [`tree`] | guests described as data, random ones among them |
//! | [`guests`] | real Debian guests |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A test that has lost its ground ends by a panic, wherever that is.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    clippy::new_without_default,
    clippy::len_without_is_empty
)]

pub mod adversary;
pub mod attempts;
pub mod bait;
pub mod browser;
pub mod built;
pub mod disk;
pub mod disturb;
pub mod everything;
pub mod filesystem;
pub mod fuse;
pub mod guests;
pub mod held_open;
pub mod html;
pub mod mapping;
pub mod moments;
pub mod numbers;
pub mod power;
pub mod program;
pub mod snapshot;
pub mod stall;
pub mod tree;
pub mod work;

/// Whether a test may pass over what this machine cannot do. In CI it may not.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "this may not be skipped in CI: {why}"
    );
    #[allow(clippy::print_stderr)]
    {
        eprintln!("SKIPPED: {why}");
    }
}
