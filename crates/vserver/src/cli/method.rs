//! `build -m METHOD … -- ARGUMENTS`: what each method takes.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

use crate::lifecycle::build::{Method, Options, Plan};

/// `build` and its options, those of util-vserver.
#[derive(Debug, Args)]
pub struct Build {
    /// How its files are made
    #[arg(short, long, value_enum)]
    method: Name,
    /// Put its root directory into this one [default: .defaults/vdirbase, else /vservers]
    #[arg(long, value_name = "DIR")]
    rootdir: Option<PathBuf>,
    /// Its host name [default: its name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Its context number [default: a free one at each start]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=65535))]
    context: Option<u32>,
    /// An address: [NAME=][DEV:]ADDRESS[/PREFIX]; may be repeated
    #[arg(long, value_name = "SPEC")]
    interface: Vec<String>,
    /// Context flags, separated by commas; they have no effect here
    #[arg(long, value_name = "LIST")]
    flags: Option<String>,
    /// Who is its process 1: sysv, plain, systemd or minit
    #[arg(long, value_name = "STYLE", value_parser = ["sysv", "plain", "systemd", "minit"])]
    initstyle: Option<String>,
    /// Move a guest of that name out of the way
    #[arg(long)]
    force: bool,
    /// Leave what a failed build made
    #[arg(long)]
    keep: bool,
    /// Of the method: debootstrap -d SUITE [-m MIRROR] [-- …]; template -t TARBALL…;
    /// rsync --source DIR; clone --source GUEST|DIR; oci -i DIR|FILE [--ref NAME]; skeleton has none
    #[arg(last = true, value_name = "METHOD ARGUMENTS")]
    arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    Debootstrap,
    Template,
    Rsync,
    Oci,
    Skeleton,
    Clone,
}

#[derive(Debug, Parser)]
#[command(
    name = "vserver NAME build -m debootstrap --",
    disable_help_flag = true
)]
struct Debootstrap {
    /// The release of Debian
    #[arg(short = 'd', long = "dist", value_name = "SUITE")]
    suite: String,
    /// The mirror
    #[arg(short, long)]
    mirror: Option<String>,
    /// What else debootstrap is told
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Debug, Parser)]
#[command(name = "vserver NAME build -m template --", disable_help_flag = true)]
struct Template {
    /// A tar archive, compressed or not; may be repeated
    #[arg(short, long = "tarball", required = true, value_name = "TARBALL")]
    tarball: Vec<PathBuf>,
}

#[derive(Debug, Parser)]
#[command(name = "vserver NAME build -m METHOD --", disable_help_flag = true)]
struct Source {
    /// Where the files are
    #[arg(long)]
    source: OsString,
}

#[derive(Debug, Parser)]
#[command(name = "vserver NAME build -m oci --", disable_help_flag = true)]
struct Oci {
    /// An OCI image layout: its directory, or a tar archive of it
    #[arg(short, long, value_name = "DIR|FILE")]
    image: PathBuf,
    /// Which image of it [default: the only one, or the one for this machine]
    #[arg(long = "ref", value_name = "NAME")]
    reference: Option<String>,
}

#[derive(Debug, Parser)]
#[command(name = "vserver NAME build -m skeleton --", disable_help_flag = true)]
struct Nothing {}

impl Build {
    /// What was typed as what is to be done. A wrong argument of a method ends the process as every
    /// wrong argument does.
    pub fn plan(&self) -> Plan {
        let arguments = || {
            let program = std::iter::once(OsString::from("vserver"));
            program.chain(self.arguments.iter().cloned())
        };
        let method = match self.method {
            Name::Debootstrap => {
                let typed = Debootstrap::parse_from(arguments());
                Method::Debootstrap {
                    suite: typed.suite,
                    mirror: typed.mirror,
                    arguments: typed.arguments,
                }
            }
            Name::Template => Method::Template(Template::parse_from(arguments()).tarball),
            Name::Rsync => Method::Rsync(Source::parse_from(arguments()).source.into()),
            Name::Clone => Method::Clone(Source::parse_from(arguments()).source),
            Name::Oci => {
                let typed = Oci::parse_from(arguments());
                Method::Oci {
                    source: typed.image,
                    reference: typed.reference,
                }
            }
            Name::Skeleton => {
                Nothing::parse_from(arguments());
                Method::Skeleton
            }
        };
        Plan {
            method,
            root_dir: self.rootdir.clone(),
            options: Options {
                hostname: self.hostname.clone(),
                context: self.context,
                interfaces: self.interface.clone(),
                flags: self.flags.clone(),
                style: self.initstyle.clone(),
            },
            force: self.force,
            keep: self.keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Debootstrap, Nothing, Oci, Source, Template};

    #[test]
    fn the_flag_tables_are_consistent() {
        Debootstrap::command().debug_assert();
        Template::command().debug_assert();
        Source::command().debug_assert();
        Oci::command().debug_assert();
        Nothing::command().debug_assert();
    }
}
