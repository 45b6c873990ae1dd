//! What a process does to itself on its way into a guest, and what it looks at in another one.
//!
//! | file | what |
//! | --- | --- |
//! | `attributes` | priorities, personality, mounts of its own |
//! | `child` | work in a copy of this process, at somebody else's cost |
//! | `descriptors` | which of them outlive exec, or go at once; whether two are one open file |
//! | `memory` | reads another process's memory |
//! | `reaper` | process 1 of a guest that has no init of its own |
//! | `root` | whether its root directory is that of its mounts |
//! | `session` | a program in a session of its own |
//! | `signals` | dispositions; signals as a descriptor |
//! | `usual` | all else that a caller would hand on |

mod attributes;
mod child;
mod descriptors;
mod memory;
mod reaper;
mod root;
mod session;
mod signals;
mod usual;

pub use attributes::{set_io_priority, set_nice, set_personality, unshare_mounts};
pub use child::{Child, in_child};
pub use descriptors::{
    adopt_number, close_others_on_exec, duplicate_onto, is_one_open_file, keep_on_exec,
};
pub use memory::read_memory;
pub use reaper::{execute, make_reaper};
pub use root::has_root_of_its_mounts;
pub use session::in_own_session;
pub use signals::{
    ignore_broken_pipes, is_ignored, next_signal, restore_signals, signals_as_descriptor,
};
pub use usual::be_as_usual;
