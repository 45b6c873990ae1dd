//! What isolates a running guest from the host and from other guests.
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`spec`] | the OCI specification that `libcontainer` runs: mounts, `/dev`, masked paths, limits |
//! | [`seccomp`] | which system calls it is denied |
//! | [`filter`] | loads such a filter |
//! | [`notify`] | which system calls wait for its broker |
//! | [`call_numbers`] | their numbers |
//! | [`cgroup`] | where its processes are counted and limited |
//! | [`callers_cgroup`] | that of any process |
//! | [`limits`] | its limits, and which files of the controllers hold them |
//! | [`bucket`], [`configured`] | limits of a token bucket, and of all settings |
//! | [`sysctl`] | kernel parameters of its namespaces |
//!
//! [`spec`], [`seccomp`], [`notify`], [`limits`], [`bucket`] and [`configured`] are pure: settings in, data out.

pub mod bucket;
pub mod call_numbers;
pub mod callers_cgroup;
pub mod cgroup;
pub mod configured;
pub mod filter;
pub mod limits;
pub mod notify;
pub mod seccomp;
pub mod spec;
pub mod sysctl;
