//! Kernels to boot.
use super::host::Host;
use super::report::{Check, Group, Topic};
use crate::kernel_search::{self, Rejection, Roots};

const KERNEL: Topic = Topic {
    group: Group::GuestKernels,
    id: "guest-kernel",
    title: "Kernel",
    why: "a guest needs a kernel: this is what is booted when no --kernel is given",
};

pub(super) fn examine(host: &Host) -> Vec<Check> {
    let roots = Roots::below(&host.root, &host.paths);
    let check = match kernel_search::find(None, host.kernel_variable.as_deref(), &roots) {
        Ok(found) => {
            let others = found
                .trail
                .candidates()
                .filter(|candidate| candidate.rejected == Some(Rejection::Outranked))
                .count();
            let others = if others == 0 {
                String::new()
            } else {
                format!(", and {others} more beside it")
            };
            KERNEL.ok(format!("{}{others}", found.path.display()))
        }
        Err(error) => {
            let found = format!("none: {}", error.trail.shortcomings());
            let check = KERNEL.warning(found).advise(error.advice());
            match error.command() {
                Some(command) => check.mend(command),
                None => check,
            }
        }
    };
    vec![check]
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::super::testing::FakeHost;

    #[test]
    fn a_kernel_in_boot_is_found() {
        let host = FakeHost::intel();
        let check = host
            .with_file("/boot/vmlinuz-6.1", "\x7fELF")
            .check("guest-kernel");
        assert_eq!(check.status, Status::Ok);
        assert!(
            check.found.ends_with("/boot/vmlinuz-6.1"),
            "{}",
            check.found
        );
    }

    #[test]
    fn without_a_kernel_the_report_has_the_command_that_supplies_one() {
        let host = FakeHost::intel().with_file("/etc/os-release", "ID=debian\n");
        let check = host.check("guest-kernel");
        assert_eq!(check.status, Status::Warning);
        assert!(check.mend.unwrap().contains("linux-image-cloud-amd64"));
    }
}
