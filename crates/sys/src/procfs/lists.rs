//! Lists of numbers: processes, children, descriptors. Each is old when it is returned.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use super::path;

/// The processes of this process's PID namespace.
///
/// # Errors
/// What `open(2)` lists for `/proc`.
pub fn processes() -> io::Result<Vec<i32>> {
    numbers(Path::new("/proc"))
}

/// The descriptors of a process.
///
/// # Errors
/// What `open(2)` lists: without `ptrace(2)` access `EACCES`.
pub fn descriptors(process: impl Display) -> io::Result<Vec<i32>> {
    numbers(&path(process, "fd"))
}

/// The children that the main thread of a process has made, oldest first; none of a process that has gone.
#[must_use]
pub fn children(process: i32) -> Vec<i32> {
    // Not by `read`: the kernel prints it child by child.
    let listed = fs::read_to_string(path(process, &format!("task/{process}/children")));
    listed
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn numbers(directory: &Path) -> io::Result<Vec<i32>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(fs::read_dir(directory)?
        .flatten()
        .filter_map(number)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::{children, descriptors, processes};

    #[test]
    fn what_this_process_has_is_listed() {
        let file = File::open("/").unwrap();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(descriptors(own).unwrap().contains(&file.as_raw_fd()));
        assert!(processes().unwrap().contains(&own));
        assert!(descriptors(i32::MAX).is_err() && children(i32::MAX).is_empty());
    }

    #[test]
    fn a_child_is_listed_while_it_runs() {
        // The test's thread is not the main one: its child is one of a shell's, which has one thread.
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; read line; kill $!"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = shell.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        let found = children(i32::try_from(shell.id()).unwrap());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(found, [line.trim().parse::<i32>().unwrap()]);
    }
}
