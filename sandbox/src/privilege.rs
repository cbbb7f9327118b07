//! Giving up privileges: `cloister` becomes the service user, a cell or a worker keeps a few capabilities.

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// A user as the host's user database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl ServiceUser {
    /// Looks a user up by name. Root is refused: the point is to be somebody else.
    pub fn find(name: &str) -> Result<Self, String> {
        match User::from_name(name) {
            Ok(Some(user)) if user.uid.is_root() => Err(format!("user {name} is root: choose an unprivileged one")),
            Ok(Some(user)) => Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            Ok(None) => Err(format!(
                "user {name} does not exist: create it with `useradd --system --no-create-home --shell /usr/sbin/nologin {name}`"
            )),
            Err(error) => Err(format!("the user database can't be read: {error}")),
        }
    }

    /// The user who started this process.
    pub fn present() -> Self {
        Self { uid: Uid::current().as_raw(), gid: Gid::current().as_raw() }
    }

    /// Becomes this user for good: ids, groups, no capability, no way back through a set-id program. Who isn't root has no
    /// right to change ids and groups, nor a capability to lose.
    /// Call it while the process has one thread.
    pub fn assume(self) -> std::io::Result<()> {
        if !Uid::effective().is_root() {
            return Ok(rustix::thread::set_no_new_privs(true)?);
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // First, while there is still the right to.
        shrink_bounding_set(&CapsHashSet::new()).map_err(std::io::Error::other)?;
        setgroups(&[gid])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        keep_capabilities(&[])?;
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    }
}

/// Becomes root of the present user namespace, without the groups of before.
pub(crate) fn become_root() -> std::io::Result<()> {
    setgroups(&[])?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    Ok(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?)
}

/// Gives up every capability but these, for good, from every set.
pub(crate) fn keep_capabilities(keep: &[Capability]) -> std::io::Result<()> {
    let drop_others = || -> Result<(), caps::errors::CapsError> {
        let keep: CapsHashSet = keep.iter().copied().collect();
        shrink_bounding_set(&keep)?;
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &keep)?;
        caps::set(None, CapSet::Permitted, &keep)
    };
    drop_others().map_err(std::io::Error::other)
}

/// Gives one capability up, for good.
pub(crate) fn lose_capability(capability: Capability) -> std::io::Result<()> {
    let lose = || -> Result<(), caps::errors::CapsError> {
        if caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
        [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
            .into_iter()
            .try_for_each(|set| caps::drop(None, set, capability))
    };
    lose().map_err(std::io::Error::other)
}

/// Takes all but these from what a program that is executed could gain at most. An ordinary user's process has no right to, and
/// gains nothing with `no_new_privs`.
fn shrink_bounding_set(keep: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    if caps::read(None, CapSet::Permitted)?.is_empty() {
        return Ok(());
    }
    for capability in caps::all().into_iter().filter(|capability| !keep.contains(capability)) {
        // A kernel older than this list doesn't know the newest ones, and therefore doesn't have them set.
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// Makes every capability that this process may have effective: changing the effective user away from root ends that.
pub(crate) fn regain_capabilities() -> std::io::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(std::io::Error::other)?;
    caps::set(None, CapSet::Effective, &permitted).map_err(std::io::Error::other)
}

/// Hides this process's memory and descriptors from others with the same ids: no ptrace, no /proc/<pid>/mem, no core.
pub(crate) fn conceal() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
