//! What was typed, resolved: which guests, which stores, what is left out. Changes nothing.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use vhashify_config::{ConfigTree, GuestConfig, PackageFilePolicy};
use vhashify_packages::configuration_files;
use vhashify_sys::shown::Shown;

use super::args::{Common, RunArguments};
use crate::Error;
use crate::exclude::{ExcludeError, Rules};
use crate::guest::{Guest, StoreLocation, check_layout, check_references};
use crate::index::Index;
use crate::outcome::Progress;
use crate::store::Store;
use crate::unify::{Scope, Source};

/// A store and the guests on its filesystem.
#[derive(Debug)]
pub struct Selection {
    /// The store.
    pub store: StoreLocation,
    /// Its guests.
    pub sources: Vec<Source>,
}

/// The guests of a run, and which of their files it may share.
#[derive(Debug)]
pub struct Chosen {
    /// The guests, by store.
    pub selections: Vec<Selection>,
    /// Which of their files may be shared with which.
    pub scope: Scope,
}

/// The guests of a run.
pub fn for_run(
    common: &Common,
    run: &RunArguments,
    progress: &dyn Progress,
) -> Result<Chosen, Error> {
    let chosen = |selections| Chosen {
        selections,
        scope: Scope::All,
    };
    if run.manually {
        let rules = || {
            run.exclude_from
                .as_deref()
                .map_or_else(|| Ok(Rules::none()), Rules::read)
        };
        // Before any root is opened: a bad line is found first, and found once.
        rules()?;
        return manual(common, &run.guests, rules).map(chosen);
    }
    let tree = ConfigTree::open(&common.config_dir)?;
    let names = if run.all {
        marked(common, &tree)?
    } else {
        without_repeats(&run.guests)
    };
    if let (Some(paths), [guest]) = (&run.by_path, names.as_slice()) {
        return by_path(common, &tree, guest, paths, progress);
    }
    let rules = |config: &GuestConfig, guest: &Guest| rules_of(config, guest, progress);
    configured(common, &tree, &names, rules).map(chosen)
}

/// A guest and, after it, its reference guests in their order; the guest alone where it has none.
fn by_path(
    common: &Common,
    tree: &ConfigTree,
    guest: &OsStr,
    paths: &[PathBuf],
    progress: &dyn Progress,
) -> Result<Chosen, Error> {
    let mut names = vec![guest.to_os_string()];
    names.extend(tree.references(guest)?);
    let has_references = names.len() > 1;
    if let (false, Some(path)) = (has_references, paths.first()) {
        return Err(Error::Argument {
            path: path.clone(),
            reason: "needs a reference guest to be compared with; link the directory of one \
                     (ln -s ../../../GUEST NAME/apps/vunify/refserver.00), or name no path",
        });
    }
    let configs = read(tree, &names)?;
    let guests = opened(&configs)?;
    check_references(&guests)?;
    let rules = |config: &GuestConfig, guest: &Guest| rules_of(config, guest, progress);
    // One filesystem has one store, and they are all on one.
    let selections = placed(common, &configs, guests, rules)?;
    if has_references {
        return Ok(Chosen {
            selections,
            scope: Scope::AtSamePath(paths.to_vec()),
        });
    }
    progress.note(&format!(
        "{} has no reference guest (apps/vunify/refserver.*): all of it is unified, as hashify does",
        Shown::bytes(guest.as_bytes())
    ));
    Ok(Chosen {
        selections,
        scope: Scope::All,
    })
}

/// One guest; no rule excludes any of its files.
pub fn one_guest(common: &Common, guest: &OsStr, manually: bool) -> Result<Selection, Error> {
    let name = guest.to_os_string();
    let mut selections = if manually {
        manual(common, &[name], || Ok(Rules::none()))?
    } else {
        let tree = ConfigTree::open(&common.config_dir)?;
        configured(common, &tree, &[name], |_, _| Ok(Rules::none()))?
    };
    selections.pop().ok_or_else(|| Error::Argument {
        path: PathBuf::from(guest),
        reason: "has no store; name one with --destination",
    })
}

/// The store that was named, or all stores of the configuration.
pub fn stores(common: &Common) -> Result<Vec<StoreLocation>, Error> {
    if let Some(destination) = &common.destination {
        return Ok(vec![StoreLocation::open(destination)?]);
    }
    let entries = ConfigTree::open(&common.config_dir)?.all_stores()?;
    let locations = entries
        .iter()
        .map(|entry| StoreLocation::open(&entry.directory));
    Ok(locations.collect::<Result<_, _>>()?)
}

/// All guests of the configuration, with the rules of a run. With a store named: the guests that the index knows to
/// be unified into it; their rules are unknown, so none excludes anything.
pub fn for_report(common: &Common, progress: &dyn Progress) -> Result<Vec<Selection>, Error> {
    let Some(destination) = &common.destination else {
        let tree = ConfigTree::open(&common.config_dir)?;
        let names = marked(common, &tree)?;
        return configured(common, &tree, &names, |config, guest| {
            // A bad list stops a run, but not the report, which walks excluded files, too.
            Ok(rules_of(config, guest, progress).unwrap_or_else(|error| {
                progress.note(&error.to_string());
                Rules::none()
            }))
        });
    };
    let store = StoreLocation::open(destination)?;
    let mut sources = Vec::new();
    for row in Index::peek_guests(&common.state_dir, &Store::open(&store)?) {
        let (name, vdir) = (OsString::from_vec(row.name), OsString::from_vec(row.vdir));
        // A guest that is gone costs nothing.
        if let Ok(guest) = Guest::open(&name, Path::new(&vdir)) {
            sources.push(Source {
                guest,
                rules: Rules::none(),
            });
        }
    }
    Ok(vec![Selection { store, sources }])
}

/// The guests that are marked for unification, at least one.
fn marked(common: &Common, tree: &ConfigTree) -> Result<Vec<OsString>, Error> {
    let names = tree.guest_names()?;
    if names.is_empty() {
        return Err(Error::Argument {
            path: common.config_dir.clone(),
            reason: "has no guest that is marked for unification; mark one with mkdir -p \
                     NAME/apps/vunify",
        });
    }
    Ok(names)
}

fn manual(
    common: &Common,
    roots: &[OsString],
    rules: impl Fn() -> Result<Rules, ExcludeError>,
) -> Result<Vec<Selection>, Error> {
    let Some(destination) = &common.destination else {
        return Err(Error::Argument {
            path: PathBuf::from("--manually"),
            reason: "needs a store; name it with --destination STORE",
        });
    };
    let store = StoreLocation::open(destination)?;
    let mut guests = Vec::with_capacity(roots.len());
    for root in roots {
        let mut guest = Guest::open(root, Path::new(root))?;
        // One root has one name, however it was typed.
        guest.name = guest.vdir.clone().into_os_string();
        guests.push(guest);
    }
    let stores = [store];
    check_layout(&guests, &stores)?;
    let sources = guests
        .into_iter()
        .map(|guest| {
            Ok(Source {
                guest,
                rules: rules()?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(stores
        .into_iter()
        .zip([sources])
        .map(|(store, sources)| Selection { store, sources })
        .collect())
}

fn configured(
    common: &Common,
    tree: &ConfigTree,
    names: &[OsString],
    rules: impl Fn(&GuestConfig, &Guest) -> Result<Rules, Error>,
) -> Result<Vec<Selection>, Error> {
    let configs = read(tree, names)?;
    let guests = opened(&configs)?;
    placed(common, &configs, guests, rules)
}

/// What the tree says of each guest.
fn read(tree: &ConfigTree, names: &[OsString]) -> Result<Vec<GuestConfig>, Error> {
    let configs = names.iter().map(|name| tree.guest(name));
    Ok(configs.collect::<Result<_, _>>()?)
}

fn opened(configs: &[GuestConfig]) -> Result<Vec<Guest>, Error> {
    let guests = configs
        .iter()
        .map(|config| Guest::open(&config.name, &config.vdir));
    Ok(guests.collect::<Result<_, _>>()?)
}

/// Assigns each guest, whose configuration stands at the same position, to the store of its filesystem.
fn placed(
    common: &Common,
    configs: &[GuestConfig],
    guests: Vec<Guest>,
    rules: impl Fn(&GuestConfig, &Guest) -> Result<Rules, Error>,
) -> Result<Vec<Selection>, Error> {
    let mut stores: Vec<StoreLocation> = Vec::new();
    if let Some(destination) = &common.destination {
        stores.push(StoreLocation::open(destination)?);
    } else {
        for entry in configs.iter().flat_map(|config| &config.stores) {
            let is_known =
                |known: &StoreLocation| (known.device, known.inode) == (entry.device, entry.inode);
            if !stores.iter().any(is_known) {
                stores.push(StoreLocation::open(&entry.directory)?);
            }
        }
    }
    let places = check_layout(&guests, &stores)?;
    let mut selections: Vec<Selection> = stores
        .into_iter()
        .map(|store| Selection {
            store,
            sources: Vec::new(),
        })
        .collect();
    for ((guest, config), place) in guests.into_iter().zip(configs).zip(places) {
        let rules = rules(config, &guest)?;
        selections[place].sources.push(Source { guest, rules });
    }
    selections.retain(|selection| !selection.sources.is_empty());
    Ok(selections)
}

/// The rules of a configured guest: first its package manager's configuration files, then its patterns.
fn rules_of(config: &GuestConfig, guest: &Guest, progress: &dyn Progress) -> Result<Rules, Error> {
    let patterns = match &config.exclude {
        Some(file) => Rules::read(file)?,
        None => Rules::builtin(),
    };
    if config.package_files == PackageFilePolicy::Ignore {
        return Ok(patterns);
    }
    let is_required = config.package_files == PackageFilePolicy::Require;
    match configuration_files(guest.root.as_fd(), &guest.vdir) {
        Ok(found) if found.managers.is_empty() && is_required => Err(Error::Argument {
            path: guest.vdir.clone(),
            reason: "has no package database that could be read, and pkgmgmt-force asks for one; \
                     remove pkgmgmt-force, or exclude configuration files by pattern",
        }),
        Ok(found) => Ok(patterns.with_files_first(found.files)),
        Err(error) if is_required => Err(ExcludeError::from(error).into()),
        Err(error) => {
            progress.note(&format!(
                "{error}; configuration files of this guest are told by patterns alone"
            ));
            Ok(patterns)
        }
    }
}

fn without_repeats(names: &[OsString]) -> Vec<OsString> {
    let mut seen = BTreeSet::new();
    names
        .iter()
        .filter(|name| seen.insert(*name))
        .cloned()
        .collect()
}
