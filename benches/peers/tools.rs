//! What is run, each as an administrator would type it.
//!
//! `$GUESTS` is the directory that holds the guests, `$PLACE` one for files of the tool's own.

/// One tool.
pub struct Tool {
    /// Its name, which is its program's.
    pub name: &'static str,
    /// Finds what could be linked, and changes nothing.
    pub dry_run: &'static str,
    /// Links it. Done again, it has nothing new to do.
    pub run: &'static str,
}

/// Ours.
pub const VHASHIFY: Tool = Tool {
    name: "vhashify",
    dry_run: r#""$VHASHIFY" --dry-run --protect none --manually --destination "$PLACE/hash" \
        --state-dir "$PLACE/state" --format json "$GUESTS"/*"#,
    run: r#""$VHASHIFY" --protect none --manually --destination "$PLACE/hash" \
        --state-dir "$PLACE/state" --format json "$GUESTS"/*"#,
};

/// The others, where they are installed.
pub const PEERS: [Tool; 4] = [
    Tool {
        name: "jdupes",
        dry_run: r#"jdupes -q -r -m "$GUESTS""#,
        run: r#"jdupes -q -r -L "$GUESTS""#,
    },
    // util-linux's. Like vhashify it takes owner, mode and time into account, unless told not to.
    Tool {
        name: "hardlink",
        dry_run: r#"hardlink -n "$GUESTS""#,
        run: r#"hardlink "$GUESTS""#,
    },
    Tool {
        name: "rdfind",
        dry_run: r#"rdfind -dryrun true -makehardlinks true -makeresultsfile false "$GUESTS""#,
        run: r#"rdfind -makehardlinks true -makeresultsfile false "$GUESTS""#,
    },
    Tool {
        name: "fclones",
        dry_run: r#"fclones -q group --hidden --no-ignore "$GUESTS""#,
        run: r#"fclones -q group --hidden --no-ignore "$GUESTS" >"$PLACE/groups" &&
            fclones -q link <"$PLACE/groups""#,
    },
];

/// The limit of a run with nothing new: one look at every inode, with one thread.
pub const FIND: &str = r#"find "$GUESTS" -type f -printf '%s %T@ %C@ %i %n %m %U %G %p\n'"#;

/// The limit of finding what is the same: every byte is read and hashed once, on two threads. This
/// program does it, called with [`READ_AND_HASH`].
pub const HASH: &str = r#""$BENCH" --read-and-hash "$GUESTS""#;

/// The argument with which this program calls itself.
pub const READ_AND_HASH: &str = "--read-and-hash";

impl Tool {
    /// Whether its program is found on `PATH`.
    pub fn is_installed(&self) -> bool {
        std::env::var_os("PATH").is_some_and(|all| {
            std::env::split_paths(&all).any(|directory| directory.join(self.name).is_file())
        })
    }
}
