//! How much of the host's disk a project may fill: its workspace, and what its cell changes in the image, together.
//!
//! Where the file systems enforce quotas of projects, by such a [`quota`]. Elsewhere the project gets a file system of its own
//! in an [`image`] file, which only its cells see; a project that has one goes on with it. Either way a full project hears
//! that there is no room ("quota exceeded" on ext4's own quotas), and nobody else does.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::failure::{Context, Failure};
use crate::ids::IdRange;
use crate::launcher::folders::Folders;
use crate::mount;
use crate::rootless::Standing;
use crate::seccomp::Filter;
use crate::spec::ProjectId;
use crate::storage::Storage;

mod image;
mod quota;
mod tools;

pub(crate) use image::{Images, Place, loops};
pub(crate) use tools::Tools;

/// Whether the file system on which a folder lies enforces quotas of projects.
pub fn has_quotas(folder: &Path) -> std::io::Result<bool> {
    Ok(quota::is_enforced(&mount::folder(folder)?))
}

/// Where the programs must be that make a project's own file system.
pub const TOOLS: [&str; 2] = ["/sbin/mkfs.ext4", "/sbin/resize2fs"];

/// How this host keeps a project within its limit.
pub(crate) enum Way {
    /// By quotas of the file systems that state and projects lie on.
    Quotas,
    /// By a file system for each project that has a limit.
    Images,
    /// Neither can be had without root: a cell whose project has such a limit doesn't start.
    Refused,
    /// Not at all, as the operator wishes.
    Unenforced,
}

impl Way {
    /// Finds out what the file systems of these folders can.
    pub(crate) fn choose(enforced: bool, standing: Standing, folders: [&Path; 2]) -> Result<Self, Failure> {
        if !enforced {
            return Ok(Self::Unenforced);
        }
        if standing == Standing::User {
            return Ok(Self::Refused);
        }
        for folder in folders {
            if !has_quotas(folder).step_with(|| format!("open {}", folder.display()))? {
                return Ok(Self::Images);
            }
        }
        Ok(Self::Quotas)
    }
}

/// Where a project's cell keeps its files.
pub(crate) struct Disk {
    /// A mount of the workspace, attached nowhere.
    pub(crate) workspace: OwnedFd,
    /// The folder in which the overlay's upper layer is made.
    pub(crate) changes: OwnedFd,
    /// To be dropped once the overlay is made.
    pub(crate) place: Option<Place>,
}

/// Whose disk, and how much of it.
pub(crate) struct Claim<'a> {
    pub(crate) project: &'a ProjectId,
    pub(crate) range: IdRange,
    /// In bytes; 0 is no limit.
    pub(crate) bytes_max: u64,
}

/// Opens the disk of a project whose storage is ours.
pub(crate) fn open(
    folders: &mut Folders,
    filter: &Filter,
    claim: &Claim<'_>,
    storage: &Storage,
) -> Result<Disk, Failure> {
    let place = format!("{}/workspace", claim.project);
    let workspace = mount::folder_beneath(&folders.projects, &place)
        .step_with(|| format!("open the workspace of project {} (is it missing, or a link?)", claim.project))?;
    if claim.bytes_max > 0 && matches!(folders.way, Way::Refused) {
        return Err(Failure::new(
            format!("limit the disk of project {}", claim.project),
            "that takes root: take its limit disk_bytes_max back, or set quota = \"unenforced\"",
        ));
    }
    let limited = claim.bytes_max > 0 && matches!(folders.way, Way::Images);
    if limited || folders.images.has(claim.project).step("look for the project's disk image")? {
        let service = (folders.service_uid, folders.service_gid);
        return folders.images.open(claim, &workspace, service, filter);
    }
    let changes = storage.changes().step("make the cell's storage")?;
    if matches!(folders.way, Way::Quotas) {
        for folder in [&workspace, &changes] {
            quota::prepare(folder, claim).step_with(|| format!("limit the disk of project {}", claim.project))?;
        }
    }
    Ok(Disk { workspace: mount::copy_of(workspace).step("copy the workspace's mount")?, changes, place: None })
}

/// The cell is ready and nothing of the project's runs in it yet: from here on its limit holds.
pub(crate) fn confine(folders: &Folders, claim: &Claim<'_>) -> Result<(), Failure> {
    if matches!(folders.way, Way::Quotas) {
        for folder in [&folders.projects, &folders.cells] {
            quota::limit(folder, claim).step_with(|| format!("limit the disk of project {}", claim.project))?;
        }
    }
    Ok(())
}

/// The project's cell has ended: what it changed in the image goes to the trash of the project's own file system, if it has one.
pub(crate) fn close(folders: &mut Folders, project: &ProjectId) -> Result<(), Failure> {
    folders.images.close(project).step("throw away the cell's upper layer")
}

/// The project goes, and with it its file system.
pub(crate) fn remove(folders: &Folders, project: &ProjectId) -> Result<(), Failure> {
    folders.images.remove(project).step("remove the project's disk image")
}
