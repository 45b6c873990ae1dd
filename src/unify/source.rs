//! A guest as a command is asked to handle it.

use crate::exclude::Rules;
use crate::guest::Guest;

/// One guest that takes part.
#[derive(Debug)]
pub struct Source {
    /// The guest.
    pub guest: Guest,
    /// What of it is left out.
    pub rules: Rules,
}
