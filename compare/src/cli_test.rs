//! Reading the command line.

use super::*;

fn parsed(arguments: &[&str]) -> Result<Compare, String> {
    let all = ["compare"].iter().chain(arguments).map(OsString::from);
    parse(all).map_err(|error| error.to_string())
}

#[test]
fn the_options_of_a_run_are_handed_on_as_they_were_given() {
    let compare = parsed(&[
        "--kernel",
        "a,,b,format=raw",
        "--cpu",
        "zbb=off,zba=off",
        "--no-rng",
        "--memory",
        "1G",
        "--disk",
        "d,readonly",
        "--cmdline",
        "-x y",
        "--runs",
        "5",
    ])
    .unwrap();
    assert_eq!(
        compare.handed_on,
        [
            "--kernel=a,,b,format=raw",
            "--cmdline=-x y",
            "--memory=1G",
            "--cpu=zbb=off",
            "--cpu=zba=off",
            "--no-rng"
        ]
    );
    assert_eq!(compare.disks, ["d,readonly"]);
    assert_eq!(compare.options.runs, 5);
    assert_eq!(compare.guest.memory.size, 1 << 30);
}

#[test]
fn what_the_comparison_varies_itself_is_refused() {
    for option in [
        "--accel=kvm",
        "--devices=qemu",
        "--pidfile=x",
        "--print-command",
    ] {
        let error = parsed(&["--kernel", "k", option]).unwrap_err();
        assert!(error.contains("has no option"), "{error}");
    }
}

#[test]
fn a_file_of_a_run_is_read_but_for_what_the_comparison_varies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.toml");
    let config = format!("--config={}", path.display());
    let said = "kernel = 'k'\ncmdline = 'a'\ncpus = 2\ndisk = ['d,readonly']\nno-rng = true\n";
    let not_here = "accel = 'kvm'\npidfile = 'p'\nstats = '-'\nprint-command = true\n";
    std::fs::write(&path, format!("{said}{not_here}")).unwrap();
    let compare = parsed(&[&config, "--cmdline", "b"]).unwrap();
    assert_eq!(
        compare.handed_on,
        ["--kernel=k", "--cmdline=b", "--cpus=2", "--no-rng"]
    );
    assert_eq!(compare.disks, ["d,readonly"]);
    let refused = parsed(&[&config, "--accel=kvm"]).unwrap_err();
    assert!(
        refused.contains("hartvisor compare has no option --accel"),
        "{refused}"
    );

    for (wrong, named) in [
        ("kernel = 'k'\nruns = 3", "runs"),
        ("kernel = 'k'\ncpus = 'many'", "many"),
        ("cpus = 2", "--kernel"),
    ] {
        std::fs::write(&path, wrong).unwrap();
        let error = parsed(&[&config]).unwrap_err();
        assert!(
            error.contains(named) && error.contains("vm.toml"),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_option_of_a_run_is_refused_in_one_line() {
    let error = parsed(&["--kernel", "k", "--memory", "many"]).unwrap_err();
    assert!(error.contains("many") && !error.contains('\n'), "{error}");
    assert!(parsed(&["--kernel", "k", "--runs", "0"]).is_err());
    assert!(parsed(&[]).unwrap_err().contains("--kernel"));
}

#[test]
fn a_peer_has_a_group_a_name_and_a_command_with_what_signs_it_likes() {
    let peer = |clock, name: &str, command: &str| {
        Ok(Peer { clock, name: name.into(), command: command.into() })
    };
    assert_eq!(
        Peer::parse("q=qemu -M a=b,c:d"),
        peer(Clock::Tcg, "q", "qemu -M a=b,c:d")
    );
    assert_eq!(
        Peer::parse("lab:k=lkvm run"),
        peer(Clock::Lab, "k", "lkvm run")
    );
    for wrong in ["qemu", "=qemu", "q=", "hvf:q=qemu"] {
        assert!(Peer::parse(wrong).is_err(), "{wrong}");
    }
}
