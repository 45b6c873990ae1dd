//! Estimates whether the kernel will let a caller change a file. A break for a call that the kernel then refuses
//! would cost the guest a copy for nothing, and let a caller without rights fill its disk.
//!
//! False positives are harmless, false negatives are not: "no" lets the call run against the shared file, so the kernel
//! must be certain to refuse it. So any capability that could permit the change counts, and so does any ACL.

use vhashify_sys::procfs::Fields;
use vhashify_sys::stamp::Stamp;

use super::call::Effect;
use super::caller::Caller;
use super::object::Object;

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_SYS_ADMIN`, `CAP_SETFCAP`.
const CHANGING: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 21 | 1 << 31;
/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`.
const READING: u64 = 1 << 1 | 1 << 2;

/// Whether the kernel may let `caller` have this effect on `object`.
#[must_use]
pub fn may_have(effect: Effect, caller: &Caller<'_>, object: &Object) -> bool {
    let (capabilities, bits) = match effect {
        Effect::Change => (CHANGING, 0o222),
        Effect::Watch => (READING, 0o444),
        Effect::Link => return true,
    };
    let status = caller.status();
    let Some(credentials) = status.and_then(|status| Credentials::from_status(&status)) else {
        return true;
    };
    let has_acl = || {
        let mut none = [0; 0];
        rustix::fs::fgetxattr(object, "system.posix_acl_access", &mut none).is_ok()
    };
    credentials.may(object.stamp(), capabilities, bits) || has_acl()
}

/// Whether `caller` may certainly open a file of this stamp for reading, as its mount shows it. A capability counts
/// only where it is one in this process's user namespace: in another one it may be over nothing.
#[must_use]
pub fn may_read(caller: &Caller<'_>, stamp: &Stamp) -> bool {
    let status = caller.status();
    let Some(credentials) = status.and_then(|status| Credentials::from_status(&status)) else {
        return false;
    };
    if credentials.user == stamp.owner {
        return stamp.mode & 0o400 != 0;
    }
    credentials.capabilities & READING != 0 && caller.has_own_users() == Some(false)
}

#[derive(Debug)]
struct Credentials {
    user: u32,
    groups: Vec<u32>,
    capabilities: u64,
}

impl Credentials {
    /// The fourth user and group are those for file access.
    fn from_status(status: &Fields) -> Option<Self> {
        let ids = |name| Some(status.get(name)?.split_whitespace());
        let mut groups: Vec<u32> = ids("Groups")?.filter_map(|id| id.parse().ok()).collect();
        groups.push(ids("Gid")?.nth(3)?.parse().ok()?);
        Some(Self {
            user: ids("Uid")?.nth(3)?.parse().ok()?,
            groups,
            capabilities: status.mask("CapEff")?,
        })
    }

    /// By a capability, as the owner, or by one of these bits of the mode.
    fn may(&self, stamp: &Stamp, capabilities: u64, bits: u16) -> bool {
        let is_in_group = self.groups.contains(&stamp.group);
        let of = |class: u16| stamp.mode & bits & class != 0;
        self.capabilities & capabilities != 0
            || self.user == stamp.owner
            || of(0o007)
            || (is_in_group && of(0o070))
    }
}

#[cfg(test)]
mod tests {
    use super::{CHANGING, Credentials, Fields, READING, Stamp};

    #[test]
    fn only_a_caller_whom_the_kernel_refuses_for_certain_is_told_no() {
        let status = |uid, caps| {
            format!(
                "Name:\tx\nUid:\t0\t0\t0\t{uid}\nGid:\t9\t9\t9\t34\nGroups:\t4 5 \nCapEff:\t{caps}\n"
            )
        };
        let may = |uid, caps, mode, capabilities, bits| {
            let who = Credentials::from_status(&Fields::from(status(uid, caps))).unwrap();
            let stamp = Stamp {
                owner: 7,
                group: 5,
                mode,
                ..Stamp::default()
            };
            who.may(&stamp, capabilities, bits)
        };
        let change = |uid, caps, mode| may(uid, caps, mode, CHANGING, 0o222);
        let none = "0000000000000000";
        assert!(!change(33, none, 0o644));
        assert!(change(7, none, 0o400), "an owner changes the mode first");
        assert!(change(33, none, 0o664), "its group");
        assert!(change(33, none, 0o646));
        assert!(change(33, "0000000000000008", 0o600), "CAP_FOWNER");
        assert!(
            !change(33, "0000000000000400", 0o600),
            "CAP_NET_BIND_SERVICE"
        );
        let watch = |uid, caps, mode| may(uid, caps, mode, READING, 0o444);
        assert!(!watch(33, none, 0o600));
        assert!(watch(33, none, 0o640), "its group");
        assert!(watch(33, none, 0o604));
        assert!(watch(33, "0000000000000004", 0o600), "CAP_DAC_READ_SEARCH");
        assert!(!watch(33, "0000000000000008", 0o600), "CAP_FOWNER");
    }
}
