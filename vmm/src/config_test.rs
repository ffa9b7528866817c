use super::*;

fn machine() -> Machine {
    Machine::new(Kernel { path: "Image".into(), format: KernelFormat::Auto })
}

#[test]
fn values_are_read_back_as_they_were_written() {
    let disk = Disk {
        readonly: true,
        serial: Some("root".into()),
        format: Some(DiskFormat::Raw),
        ..Disk::new("a.img".into())
    };
    let full = Machine {
        initrd: Some("initrd".into()),
        irqchip: Irqchip::Plic,
        isa: vec![Switch::parse("zbb=off", &isa::ISA_EXTENSIONS).unwrap()],
        sbi: vec![Switch::parse("pmu=on", &isa::SBI_EXTENSIONS).unwrap()],
        disks: vec![disk],
        rng: false,
        power_key: false,
        shutdown_timeout: 5,
        console: Target::File("log".into()),
        serial: Target::Null,
        kernel: None,
        firmware: Some("u-boot.bin".into()),
        ports: vec![Port { name: "x".into(), target: Target::Pty }],
        devices: Devices::Qemu,
        ..machine()
    };
    for machine in [machine(), full] {
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}

#[test]
fn what_is_not_said_has_the_default_of_the_command_line() {
    let read = serde_json::from_str::<Machine>(r#"{"kernel": {"path": "Image"}}"#);
    assert_eq!(read.unwrap(), machine());
    for wrong in [
        r#"{"kernel": {"path": "Image"}, "cpu": 2}"#,
        r#"{"kernel": {"path": "Image"}, "isa": ["zzz=off"]}"#,
        r#"{"kernel": {"path": "Image"}, "disks": [{"path": "a", "ro": true}]}"#,
    ] {
        assert!(serde_json::from_str::<Machine>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn values_that_no_text_was_read_for_are_checked_too() {
    let cut = Machine { cmdline: "quiet\0splash".into(), ..machine() };
    let error = cut.validate().unwrap_err().to_string();
    assert!(error.contains("NUL at byte 5"), "{error}");

    let serial = |serial: &str| Machine {
        disks: vec![Disk { serial: Some(serial.into()), ..Disk::new("a.img".into()) }],
        ..machine()
    };
    assert!(serial("root").validate().is_ok());
    let error = serial("").validate().unwrap_err().to_string();
    assert!(error.contains("\"a.img\": serial \"\""), "{error}");

    let port = |name: &str, target| Port { name: name.into(), target };
    for (ports, part) in [
        (vec![port("a/b", Target::Pty)], "without a slash"),
        (vec![port("a", Target::Stdio)], "the consoles'"),
        (
            vec![port("a", Target::Pty), port("a", Target::Null)],
            "two ports have the name \"a\"",
        ),
        (
            vec![
                port("a", Target::File("x".into())),
                port("b", Target::File("x".into())),
            ],
            "--port a and --port b are both file:x",
        ),
    ] {
        let machine = Machine { ports, ..machine() };
        let error = machine.validate().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
