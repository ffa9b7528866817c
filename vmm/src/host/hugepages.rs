//! The host's 2 MiB huge pages (hugetlbfs).

use std::fs;

use crate::config::ConfigError;
use crate::error::Error;
use crate::layout::MEMORY_ALIGN;

/// The kernel's state of them.
const STATE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Returns how many are free and not reserved, or `None` if the kernel has no such pages.
pub(crate) fn free() -> Option<u64> {
    let count = |name| {
        let text = fs::read_to_string(format!("{STATE}/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let reserved = count("resv_hugepages").unwrap_or(0);
    Some(count("free_hugepages")?.saturating_sub(reserved))
}

/// Checks that enough are free for `size` bytes of RAM.
///
/// # Errors
/// There are too few.
pub(crate) fn check(size: u64) -> Result<(), Error> {
    let (needed, free) = (size / MEMORY_ALIGN, free().unwrap_or(0));
    match free < needed {
        true => Err(Error::from(ConfigError::HugePages { needed, free })),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_has_enough_for_everything() {
        let error = check(u64::MAX).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("huge pages of 2M are needed"));
        assert!(check(0).is_ok());
    }
}
