//! What is run, each as an administrator would type it.
//!
//! `$GUESTS` is the directory that holds the guests, `$PLACE` one for files of the tool's own.

/// One tool. A command is `None` where the tool has none for it.
pub struct Tool {
    /// Its name, which is its program's.
    pub name: &'static str,
    /// Finds what could be linked, and changes nothing.
    pub dry_run: Option<&'static str>,
    /// Links it.
    pub run: Option<&'static str>,
    /// The same once more, with nothing new to do.
    pub again: Option<&'static str>,
    /// Where the guests stand after a run, below `$PLACE`.
    pub result: &'static str,
    /// Whether a run takes so long that only the full form has it.
    pub is_slow: bool,
}

const DRY_RUN: &str = r#""$VHASHIFY" --dry-run --protect none --manually \
    --destination "$PLACE/hash" --state-dir "$PLACE/state" --format json "$GUESTS"/*"#;
const RUN: &str = r#""$VHASHIFY" --protect none --manually \
    --destination "$PLACE/hash" --state-dir "$PLACE/state" --format json "$GUESTS"/*"#;

/// Ours.
pub const VHASHIFY: Tool = Tool {
    name: "vhashify",
    dry_run: Some(DRY_RUN),
    run: Some(RUN),
    again: Some(RUN),
    ..COMMON
};

const COMMON: Tool = Tool {
    name: "",
    dry_run: None,
    run: None,
    again: None,
    result: "guests",
    is_slow: false,
};

/// The others, where they are installed.
pub const PEERS: [Tool; 7] = [
    Tool {
        name: "jdupes",
        dry_run: Some(r#"jdupes -q -r -m "$GUESTS""#),
        run: Some(r#"jdupes -q -r -L "$GUESTS""#),
        again: Some(r#"jdupes -q -r -L "$GUESTS""#),
        ..COMMON
    },
    // util-linux's. Like vhashify it takes owner, mode and time into account, unless told not to.
    Tool {
        name: "hardlink",
        dry_run: Some(r#"hardlink -n "$GUESTS""#),
        run: Some(r#"hardlink "$GUESTS""#),
        again: Some(r#"hardlink "$GUESTS""#),
        ..COMMON
    },
    Tool {
        name: "rdfind",
        dry_run: Some(
            r#"rdfind -dryrun true -makehardlinks true -makeresultsfile false "$GUESTS""#,
        ),
        run: Some(r#"rdfind -makehardlinks true -makeresultsfile false "$GUESTS""#),
        again: Some(r#"rdfind -makehardlinks true -makeresultsfile false "$GUESTS""#),
        ..COMMON
    },
    Tool {
        name: "fclones",
        dry_run: Some(r#"fclones -q group --hidden --no-ignore "$GUESTS""#),
        run: Some(
            r#"fclones -q group --hidden --no-ignore "$GUESTS" >"$PLACE/groups" &&
            fclones -q link <"$PLACE/groups""#,
        ),
        again: Some(
            r#"fclones -q group --hidden --no-ignore "$GUESTS" >"$PLACE/groups" &&
            fclones -q link <"$PLACE/groups""#,
        ),
        ..COMMON
    },
    // Links by a shell script that it writes, with several processes for each file.
    Tool {
        name: "rmlint",
        dry_run: Some(r#"rmlint -T df --hidden -o summary "$GUESTS""#),
        run: Some(
            r#"rmlint -T df --hidden -o sh:"$PLACE/link.sh" -c sh:hardlink "$GUESTS" &&
            sh "$PLACE/link.sh" -d -q"#,
        ),
        is_slow: true,
        ..COMMON
    },
    // Shares extents and not inodes, which ext4 cannot: it only finds here.
    Tool {
        name: "duperemove",
        dry_run: Some(r#"duperemove -q -r "$GUESTS""#),
        is_slow: true,
        ..COMMON
    },
    // The guests become commits, and what runs are checkouts that link the repository's files. It
    // takes no devices, FIFOs and sockets.
    Tool {
        name: "ostree",
        run: Some(
            r#"ostree init --repo="$PLACE/repo" --mode=bare && mkdir "$PLACE/checkouts" &&
            find "$GUESTS" ! -type f ! -type d ! -type l -delete &&
            for guest in "$GUESTS"/*; do
                name=${guest##*/} &&
                ostree commit --repo="$PLACE/repo" --branch="guest$name" --tree=dir="$guest" &&
                ostree checkout --repo="$PLACE/repo" -H "guest$name" "$PLACE/checkouts/$name" ||
                exit
            done"#,
        ),
        result: "checkouts",
        ..COMMON
    },
];

/// The limit of a run with nothing new: one look at every inode, with one thread.
pub const FIND: &str = r#"find "$GUESTS" -type f -printf '%s %T@ %C@ %i %n %m %U %G %p\n'"#;

/// The limit of finding what is the same: every byte is read and hashed once, on two threads. This
/// program does it, called with [`READ_AND_HASH`].
pub const HASH: &str = r#""$BENCH" --read-and-hash "$GUESTS""#;

/// The limit of a first run: [`HASH`], and a link and a rename for each file with a twin.
pub const LINK: &str = r#""$BENCH" --read-and-link "$GUESTS""#;

/// The limit of a run with one new guest: [`FIND`], and hash and link of that guest.
pub const LINK_ONE: &str = r#"find "$GUESTS" -type f -printf '%s %T@ %C@ %i %n %m %U %G %p\n' &&
    "$BENCH" --link-to-store "$PLACE/hash" "$GUESTS/$NEWEST""#;

/// All guests but the newest, so that one is left for the run that is measured.
pub const ALL_BUT_NEWEST: &str = r#"cd "$GUESTS" && set -- && for guest in *; do
        [ "$guest" = "$NEWEST" ] || set -- "$@" "$GUESTS/$guest"; done &&
    "$VHASHIFY" --protect none --manually --destination "$PLACE/hash" \
        --state-dir "$PLACE/state" --format json "$@""#;

/// Every object is read and compared with its name.
pub const VERIFY: &str = r#""$VHASHIFY" verify --deep \
    --destination "$PLACE/hash" --state-dir "$PLACE/state" --format json"#;

/// The limit of that.
pub const B3SUM: &str = r#"find "$PLACE/hash" -type f -print0 | xargs -0 b3sum --no-names"#;

/// Objects without a guest are removed.
pub const GC: &str = r#""$VHASHIFY" gc --destination "$PLACE/hash" --state-dir "$PLACE/state" \
    --format json"#;

/// The limit of that: they are found.
pub const FIND_ORPHANS: &str = r#"find "$PLACE/hash" -type f -links 1"#;

/// Whether a program is found on `PATH`.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|all| {
        std::env::split_paths(&all).any(|directory| directory.join(program).is_file())
    })
}
