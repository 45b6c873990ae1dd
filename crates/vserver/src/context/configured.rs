//! The limits that a configuration asks for: those that a guest has from its start on. Pure.

use vhashify_config::Resources;

use super::bucket;
use super::limits::Limit;

/// The limits of a guest with these settings.
#[must_use]
pub fn limits(resources: &Resources) -> Vec<Limit> {
    let mut limits = Vec::new();
    limits.extend(resources.memory_hard.map(Limit::Memory));
    limits.extend(resources.memory_soft.map(Limit::MemorySoft));
    limits.extend(resources.memory_min.map(Limit::MemoryMin));
    limits.extend(resources.processes.map(Limit::Processes));
    limits.extend(resources.cpus.clone().map(Limit::Cpus));
    limits.extend(resources.memory_nodes.clone().map(Limit::MemoryNodes));
    limits.extend(resources.bucket.iter().flat_map(bucket::limits));
    limits
}
