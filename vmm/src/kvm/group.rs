//! The group of `/dev/kvm`, for the error message of a user without permission.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Its name, or its number if it has none.
pub(super) fn kvm_group() -> String {
    let Ok(metadata) = fs::metadata("/dev/kvm") else {
        return "kvm".into();
    };
    // Not getgrgid(3): a static program cannot load the name services behind it.
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_name(&groups, metadata.gid()).unwrap_or_else(|| metadata.gid().to_string())
}

/// Finds a group's name in the text of `/etc/group` (name:password:number:members).
fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named() {
        let groups = "root:x:0:\nbroken\nkvm:x:104:user,other\n";
        assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 105), None);
    }
}
